//! The keys that some calls ask for, each once.

/// The distinct keys of some calls in rising order, and who asked for which.
pub(super) struct Keys<K> {
    distinct: Vec<K>,
    /// For each call, where its key is.
    asked: Vec<usize>,
}

impl<K: Ord + Copy> Keys<K> {
    pub(super) fn new(keys: impl Iterator<Item = K>) -> Self {
        let mut sorted: Vec<(K, usize)> = keys.enumerate().map(|(n, key)| (key, n)).collect();
        // By the call where the key is the same, so the first of them comes first.
        sorted.sort_unstable();
        let mut distinct = Vec::with_capacity(sorted.len());
        let mut asked = vec![0; sorted.len()];
        for (key, call) in sorted {
            if distinct.last() != Some(&key) {
                distinct.push(key);
            }
            if let Some(place) = asked.get_mut(call) {
                *place = distinct.len() - 1;
            }
        }
        Keys { distinct, asked }
    }

    pub(super) fn distinct(&self) -> &Vec<K> {
        &self.distinct
    }

    /// Where this key is.
    pub(super) fn find(&self, key: &K) -> Option<usize> {
        self.distinct.binary_search(key).ok()
    }

    /// Hands everybody the answer to their key. `repeat` makes another one of it, for those who
    /// were not the first to ask.
    pub(super) fn deal<A>(
        &self,
        answers: Vec<Option<A>>,
        repeat: impl Fn(&A) -> A,
    ) -> Vec<Option<A>> {
        let mut left = vec![0_usize; answers.len()];
        for place in &self.asked {
            if let Some(left) = left.get_mut(*place) {
                *left += 1;
            }
        }
        let mut answers = answers;
        // From the last to the first, so that the original is left for the first.
        let dealt = self.asked.iter().rev().map(|place| {
            let (answer, left) = (answers.get_mut(*place)?, left.get_mut(*place)?);
            *left -= 1;
            match *left {
                0 => answer.take(),
                _ => answer.as_ref().map(&repeat),
            }
        });
        let mut dealt: Vec<_> = dealt.collect();
        dealt.reverse();
        dealt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_the_answer_to_their_key() {
        let keys = Keys::new(["b", "a", "b", "c", "b"].into_iter());
        assert_eq!(keys.distinct(), &["a", "b", "c"]);
        assert_eq!(keys.find(&"c"), Some(2));
        assert_eq!(keys.find(&"d"), None);
        let answers = vec![Some(1), Some(20), None];
        // The first of three gets the original, the others what is made of it.
        let dealt = keys.deal(answers, |answer| answer + 1);
        assert_eq!(dealt, [Some(20), Some(1), Some(21), None, Some(21)]);
    }
}
