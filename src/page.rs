//! Pages: a request says where to go on and how far, an answer says where the next one begins.

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
    /// # Errors
    /// [`InvalidInput::PageLimit`] unless the limit is 1 to 1000.
    pub fn first(limit: usize) -> Result<Self, InvalidInput> {
        if !(1..=Self::MAX_LIMIT).contains(&limit) {
            return Err(InvalidInput::PageLimit { limit });
        }
        Ok(PageRequest { limit, after: None })
    }

    /// The page that begins after this key. The key need not exist (any more).
    pub fn after(mut self, key: K) -> Self {
        self.after = Some(key);
        self
    }

    /// The most items wanted.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The key after which the page begins; `None` for the first page.
    pub fn start(&self) -> Option<&K> {
        self.after.as_ref()
    }
}

/// Some items in rising order of their key.
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
    pub fn cut(mut items: Vec<T>, request: &PageRequest<K>, key: impl Fn(&T) -> K) -> Self {
        let more = items.len() > request.limit;
        items.truncate(request.limit);
        let next = if more { items.last().map(key) } else { None };
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
