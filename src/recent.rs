//! A map that knows which of its entries was touched longest ago, for what has to be bounded (PRC-8).

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Whoever puts something in removes with [`Recent::pop_oldest`] what is too much.
#[derive(Debug)]
pub struct Recent<K, V> {
    map: HashMap<K, (u64, V)>,
    /// Keys in the order in which they were touched.
    order: BTreeMap<u64, K>,
    touched: u64,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Recent<K, V> {
        Recent {
            map: HashMap::new(),
            order: BTreeMap::new(),
            touched: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// An entry, without touching it.
    pub fn peek<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|(_, value)| value)
    }

    /// An entry, from now on the one that was touched last.
    pub fn touch(&mut self, key: &K) -> Option<&V> {
        let (at, value) = self.map.get_mut(key)?;
        self.touched += 1;
        if let Some(key) = self.order.remove(at) {
            self.order.insert(self.touched, key);
        }
        *at = self.touched;
        Some(value)
    }

    /// Puts an entry in as the one that was touched last, and returns what it takes the place of.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.remove(&key);
        self.touched += 1;
        self.order.insert(self.touched, key.clone());
        self.map.insert(key, (self.touched, value));
        before
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (at, value) = self.map.remove(key)?;
        self.order.remove(&at);
        Some(value)
    }

    /// The entry that was touched longest ago.
    pub fn oldest(&self) -> Option<(&K, &V)> {
        let key = self.order.values().next()?;
        Some((key, self.peek(key)?))
    }

    /// Takes out the entry that was touched longest ago.
    pub fn pop_oldest(&mut self) -> Option<V> {
        let (_, key) = self.order.pop_first()?;
        self.map.remove(&key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_longest_ago_goes_first() {
        let mut recent = Recent::default();
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(recent.insert(key, value), None);
        }
        assert_eq!(recent.touch(&"a"), Some(&1));
        assert_eq!(recent.touch(&"d"), None);
        // Looking at it is not touching it; putting it in again is.
        assert_eq!(recent.peek("b"), Some(&2));
        assert_eq!(recent.insert("c", 4), Some(3));
        assert_eq!(recent.oldest(), Some((&"b", &2)));
        assert_eq!(recent.remove(&"a"), Some(1));
        assert_eq!(recent.len(), 2);
        assert_eq!(
            [
                recent.pop_oldest(),
                recent.pop_oldest(),
                recent.pop_oldest()
            ],
            [Some(2), Some(4), None]
        );
        assert!(recent.is_empty() && recent.oldest().is_none());
    }
}
