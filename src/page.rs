//! Pages: a request says where to go on and how far, an answer says where the next one begins. And
//! walks over all of them.

use futures_util::stream::{self, BoxStream, StreamExt};

use crate::model::InvalidInput;

/// Asks for the items that come after a key, in rising order of the key.
///
/// There is no offset: page 10 000 costs the server what page 1 costs, and a row is never seen
/// twice or passed over because others were added or deleted meanwhile.
///
/// ```
/// # use motorpool::{PageRequest, UserId};
/// let first = PageRequest::<UserId>::first(100)?;
/// let later = PageRequest::first(100)?.after(UserId::new(41));
/// assert!(PageRequest::<UserId>::first(1001).is_err());
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest<K> {
    limit: usize,
    after: Option<K>,
}

impl<K> PageRequest<K> {
    /// The most items that one page may hold.
    pub const MAX_LIMIT: usize = 1000;

    /// The first page, with at most `limit` items.
    ///
    /// ```
    /// use motorpool::{PageRequest, UserId};
    ///
    /// assert!(PageRequest::<UserId>::first(1000).is_ok());
    /// assert!(PageRequest::<UserId>::first(0).is_err());
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput::PageLimit`] unless the limit is 1 to 1000.
    pub fn first(limit: usize) -> Result<Self, InvalidInput> {
        if !(1..=Self::MAX_LIMIT).contains(&limit) {
            return Err(InvalidInput::PageLimit { limit });
        }
        Ok(PageRequest { limit, after: None })
    }

    /// The page that begins after this key. The key need not exist (any more).
    ///
    /// ```
    /// use motorpool::{PageRequest, UserId};
    ///
    /// let next = PageRequest::first(100)?.after(UserId::new(41));
    /// # Ok::<(), motorpool::InvalidInput>(())
    /// ```
    pub fn after(mut self, key: K) -> Self {
        self.after = Some(key);
        self
    }

    /// The most items wanted.
    ///
    /// ```
    /// let request = motorpool::PageRequest::<i64>::first(100)?;
    /// assert_eq!(request.limit(), 100);
    /// # Ok::<(), motorpool::InvalidInput>(())
    /// ```
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The key after which the page begins; `None` for the first page.
    ///
    /// ```
    /// let request = motorpool::PageRequest::first(100)?.after(41);
    /// assert_eq!(request.start(), Some(&41));
    /// # Ok::<(), motorpool::InvalidInput>(())
    /// ```
    pub fn start(&self) -> Option<&K> {
        self.after.as_ref()
    }
}

/// Some items in rising order of their key.
///
/// ```
/// # async fn example(users: &dyn motorpool::UserRepo) -> motorpool::Result<()> {
/// use motorpool::PageRequest;
///
/// let mut request = PageRequest::first(100)?;
/// loop {
///     let page = users.list(request).await?;
///     for user in &page.items {
///         println!("{user}");
///     }
///     let Some(next) = page.next else { break };
///     request = request.after(next);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Page<T, K> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// What to hand to [`PageRequest::after`] for the next page; `None` when this was the last.
    pub next: Option<K>,
}

impl<T, K> Page<T, K> {
    /// Makes a page from one item more than asked for: if that one is there, a next page exists.
    /// For implementations of the repositories.
    ///
    /// ```
    /// use motorpool::{Page, PageRequest};
    ///
    /// // Two were asked for and three were read.
    /// let request = PageRequest::first(2)?;
    /// let page = Page::cut(vec![1, 2, 3], &request, |item| *item);
    /// assert_eq!((page.items, page.next), (vec![1, 2], Some(2)));
    /// # Ok::<(), motorpool::InvalidInput>(())
    /// ```
    pub fn cut(mut items: Vec<T>, request: &PageRequest<K>, key: impl Fn(&T) -> K) -> Self {
        let more = items.len() > request.limit;
        items.truncate(request.limit);
        let next = if more { items.last().map(key) } else { None };
        Page { items, next }
    }

    /// Everything that `list` gives, page after page of the greatest length, up to the first
    /// error; no more than a page is held at a time. For implementations of
    /// [`UserRepo::stream`](crate::UserRepo::stream) and [`CarRepo::stream`](crate::CarRepo::stream),
    /// and for a stream that has to own its store
    /// ([an export over HTTP](crate::docs::cookbook#an-export)).
    ///
    /// ```
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use futures_util::TryStreamExt;
    /// use motorpool::{Error, Page, PageRequest};
    ///
    /// let numbers = Page::walk(|page: PageRequest<u32>| async move {
    ///     let start = page.start().map_or(0, |last| last + 1);
    ///     let items = (start..2500).take(page.limit() + 1).collect();
    ///     Ok::<_, Error>(Page::cut(items, &page, |number| *number))
    /// });
    /// assert_eq!(numbers.try_collect::<Vec<_>>().await?.len(), 2500);
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn walk<'a, E, F, Fut>(list: F) -> BoxStream<'a, Result<T, E>>
    where
        T: Send + 'a,
        K: Send + 'a,
        E: Send + 'a,
        F: Fn(PageRequest<K>) -> Fut + Send + Sync + 'a,
        Fut: Future<Output = Result<Page<T, K>, E>> + Send + 'a,
    {
        walk(move |after| {
            let limit = PageRequest::<K>::MAX_LIMIT;
            let page = list(PageRequest { limit, after });
            async move {
                let page = page.await?;
                Ok((page.items.into_iter().map(Ok), page.next))
            }
        })
    }
}

/// Walks over everything, a chunk at a time, and ends with the first error.
///
/// `chunk` gives the items after a key, and the key to go on after unless they were the last. It is
/// asked for the next chunk when the one before has been used up, so no more than one is held.
pub(crate) fn walk<'a, T, K, E, I, F, Fut>(chunk: F) -> BoxStream<'a, Result<T, E>>
where
    T: Send + 'a,
    K: Send + 'a,
    E: Send + 'a,
    I: Iterator<Item = Result<T, E>> + Send + 'a,
    F: Fn(Option<K>) -> Fut + Send + Sync + 'a,
    Fut: Future<Output = Result<(I, Option<K>), E>> + Send + 'a,
{
    // The items at hand, and where to go on: `Some(None)` at the very beginning.
    let start = (None::<I>, Some(None), chunk);
    let items = stream::unfold(start, |(mut items, mut next, chunk)| async move {
        loop {
            if let Some(item) = items.as_mut().and_then(Iterator::next) {
                if item.is_err() {
                    (items, next) = (None, None);
                }
                return Some((item, (items, next, chunk)));
            }
            match chunk(next.take()?).await {
                Ok((more, last)) => (items, next) = (Some(more), last.map(Some)),
                Err(error) => return Some((Err(error), (None, None, chunk))),
            }
        }
    });
    // One that is asked again after its end goes on saying so.
    items.fuse().boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures_util::FutureExt;

    use super::*;

    /// Walks over chunks, of which the last one is followed by nothing, and counts the questions.
    fn walked(chunks: &[Result<Vec<Result<u8, u8>>, u8>]) -> (Vec<Result<u8, u8>>, usize) {
        let asked = AtomicUsize::new(0);
        let ask = |after: Option<usize>| {
            asked.fetch_add(1, Relaxed);
            let number = after.unwrap_or(0);
            let next = Some(number + 1).filter(|next| *next < chunks.len());
            let chunk = chunks[number].clone();
            async move { chunk.map(|chunk| (chunk.into_iter(), next)) }
        };
        let items = walk(ask).collect().now_or_never();
        (items.expect("nothing to wait for"), asked.into_inner())
    }

    #[test]
    fn a_walk_goes_to_the_end() {
        let chunks = [Ok(vec![Ok(1), Ok(2)]), Ok(vec![]), Ok(vec![Ok(3)])];
        assert_eq!(walked(&chunks), (vec![Ok(1), Ok(2), Ok(3)], 3));
        assert_eq!(walked(&[Ok(vec![])]), (vec![], 1));
    }

    #[test]
    fn a_walk_ends_with_the_first_error_and_asks_no_more() {
        let bad_item = [Ok(vec![Ok(1), Err(2), Ok(3)]), Ok(vec![Ok(4)])];
        assert_eq!(walked(&bad_item), (vec![Ok(1), Err(2)], 1));
        let bad_chunk = [Ok(vec![Ok(1)]), Err(2), Ok(vec![Ok(3)])];
        assert_eq!(walked(&bad_chunk), (vec![Ok(1), Err(2)], 2));
    }

    #[test]
    fn limits() {
        for limit in [1, 1000] {
            assert!(PageRequest::<i64>::first(limit).is_ok());
        }
        for limit in [0, 1001, usize::MAX] {
            assert_eq!(
                PageRequest::<i64>::first(limit),
                Err(InvalidInput::PageLimit { limit })
            );
        }
    }

    #[test]
    fn the_extra_item_becomes_the_next_key() {
        let request = PageRequest::first(2).expect("a limit");
        let page = |items: Vec<i64>| Page::cut(items, &request, |item| *item);
        assert_eq!(page(vec![1, 2, 3]).next, Some(2));
        assert_eq!(page(vec![1, 2, 3]).items, [1, 2]);
        assert_eq!(page(vec![1, 2]).next, None);
        assert_eq!(page(vec![]).next, None);
    }
}
