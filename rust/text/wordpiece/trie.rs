//! A double-array trie over bytes: for the longest token that a word begins with, one load and one compare a byte.

/// What a unit holds, from its low bits up: the byte that leads to it, whether a key ends there, whether no key goes on
/// from there, and a number: where a key goes on, that under which its children are found (the one for byte `b` at
/// `number ^ b`, the value at `number ^ 0`, which no text can ask for), else the value.
const LABEL: u32 = 0xFF;
const ENDS: u32 = 1 << 8;
const LEAF: u32 = 1 << 9;
const NUMBER: u32 = 10;

const NODES_PER_BLOCK: usize = 256;
/// How many places are tried for a node with several children before a fresh block is taken.
const TRIES: usize = 64;
/// Counts of children by their number of binary digits.
const CLASSES: usize = 1 + NODES_PER_BLOCK.ilog2() as usize + 1;

/// A map from byte strings without NUL to numbers, walked byte by byte, in four bytes a node, so that it stays in a
/// cache beside much else.
#[derive(Debug)]
pub struct Trie {
    units: Vec<u32>,
}

impl Trie {
    /// The node of the empty string.
    pub const ROOT: u32 = 0;

    /// The trie of distinct keys with their values; keys that hold NUL are left out. `None` if it would have more than
    /// four million nodes or a value that large.
    pub fn new(mut entries: Vec<(&[u8], u32)>) -> Option<Self> {
        entries.retain(|(key, _)| !key.is_empty() && !key.contains(&0));
        entries.sort_unstable();
        let mut places = Places { used: vec![true], bases: vec![false; NODES_PER_BLOCK], first_tried: [1; CLASSES] };
        places.used.resize(NODES_PER_BLOCK, false);
        let mut units = vec![0; NODES_PER_BLOCK];
        let mut children: Vec<(u8, usize, usize)> = Vec::new();
        let mut pending = vec![(Self::ROOT, 0, entries.len(), 0)];
        while let Some((node, mut first, last, depth)) = pending.pop() {
            let label = units[node as usize] & LABEL;
            let value = entries[first..last].first().filter(|(key, _)| key.len() == depth).map(|&(_, value)| value);
            first += usize::from(value.is_some());
            if let Some(value) = value.filter(|_| first == last) {
                units[node as usize] = label | ENDS | LEAF | number(value)?;
                continue;
            }
            children.clear();
            if value.is_some() {
                children.push((0, first, first));
            }
            for (place, (key, _)) in entries[first..last].iter().enumerate() {
                match children.last_mut() {
                    Some((byte, _, end)) if *byte == key[depth] => *end = first + place + 1,
                    _ => children.push((key[depth], first + place, first + place + 1)),
                }
            }
            if children.is_empty() {
                continue;
            }
            let base = places.take(&children);
            units.resize(places.used.len(), 0);
            units[node as usize] = label | if value.is_some() { ENDS } else { 0 } | number(base)?;
            for &(byte, start, end) in &children {
                let child = base ^ u32::from(byte);
                if byte == 0 {
                    units[child as usize] = number(value.unwrap_or_default())?;
                } else {
                    units[child as usize] = u32::from(byte);
                    pending.push((child, start, end, depth + 1));
                }
            }
        }
        Some(Self { units })
    }

    /// The value of the key that ends at a unit, if one does.
    #[inline]
    fn value_of(&self, unit: u32) -> Option<u32> {
        match (unit & ENDS, unit & LEAF) {
            (0, _) => None,
            (_, 0) => Some(self.units[(unit >> NUMBER) as usize] >> NUMBER),
            _ => Some(unit >> NUMBER),
        }
    }

    /// The node one byte further down, if some key goes on that way.
    #[inline]
    fn step(&self, unit: u32, byte: u8) -> Option<u32> {
        let child = (unit >> NUMBER) ^ u32::from(byte);
        (unit & LEAF == 0 && byte != 0 && self.units[child as usize] & LABEL == u32::from(byte)).then_some(child)
    }

    /// The node that a whole string leads to.
    pub fn walk(&self, key: &[u8]) -> Option<u32> {
        key.iter().try_fold(Self::ROOT, |node, &byte| self.step(self.units[node as usize], byte))
    }

    /// The longest key that `text` begins with, from `root` on: its length and value.
    #[inline]
    pub fn longest(&self, root: u32, text: &[u8]) -> Option<(usize, u32)> {
        let mut best = (0, 0);
        let mut unit = self.units[root as usize];
        for (position, &byte) in text.iter().enumerate() {
            let Some(child) = self.step(unit, byte) else { break };
            unit = self.units[child as usize];
            if unit & ENDS != 0 {
                best = (position + 1, unit);
            }
        }
        Some((best.0, self.value_of(best.1)?))
    }
}

/// A number as a unit holds it, if it fits.
fn number(number: u32) -> Option<u32> {
    (number < 1 << (u32::BITS - NUMBER)).then_some(number << NUMBER)
}

/// Which places are taken, and which numbers have been given out: two nodes with one number would share their children.
struct Places {
    used: Vec<bool>,
    bases: Vec<bool>,
    /// For each class of counts of children, the first place that is worth trying. Those before it are taken or were
    /// tried in vain; without this, holes too small for many children would be tried again and again, and each such node
    /// would have a block to itself: four times the memory for a vocabulary of all characters.
    first_tried: [usize; CLASSES],
}

impl Places {
    /// Takes a number under which all children find a free place.
    fn take(&mut self, children: &[(u8, usize, usize)]) -> u32 {
        let class = (usize::BITS - children.len().leading_zeros()) as usize;
        let mut first = self.first_tried[class];
        while first < self.used.len() && self.used[first] {
            first += 1;
        }
        let (mut tried, mut last) = (0, first);
        let free = (first..self.used.len()).filter(|&place| !self.used[place]).take(TRIES);
        let fitting = free
            .inspect(|&place| (tried, last) = (tried + 1, place))
            .map(|place| place ^ usize::from(children[0].0))
            .find(|&base| !self.bases[base] && children.iter().all(|&(byte, ..)| !self.used[base ^ usize::from(byte)]));
        self.first_tried[class] = match fitting {
            Some(_) => {
                if tried > TRIES / 8 {
                    last
                } else {
                    first
                }
            }
            None => last + 1,
        };
        let base = fitting.unwrap_or_else(|| {
            let base = self.used.len();
            self.used.resize(base + NODES_PER_BLOCK, false);
            self.bases.resize(base + NODES_PER_BLOCK, false);
            base
        });
        self.bases[base] = true;
        for &(byte, ..) in children {
            self.used[base ^ usize::from(byte)] = true;
        }
        base as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn longest_is_the_longest_key(
            keys in prop::collection::hash_map("[a-d#é]{1,6}|\\PC{1,3}", 0_u32..1000, 0..200),
            texts in prop::collection::vec("[a-d#é]{0,9}|\\PC{0,5}", 1..50),
        ) {
            let keys: HashMap<String, u32> = keys;
            let trie = Trie::new(keys.iter().map(|(key, &value)| (key.as_bytes(), value)).collect()).unwrap();
            for text in texts.iter().chain(keys.keys()) {
                let longest = keys.iter().filter(|(key, _)| text.starts_with(key.as_str())).max_by_key(|(key, _)| key.len());
                let expected = longest.map(|(key, &value)| (key.len(), value));
                prop_assert_eq!(trie.longest(Trie::ROOT, text.as_bytes()), expected);
                let exact = trie.walk(text.as_bytes()).and_then(|node| trie.value_of(trie.units[node as usize]));
                prop_assert_eq!(exact, keys.get(text).copied());
            }
        }
    }

    #[test]
    fn full_blocks_are_left_for_new_ones() {
        let keys: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_be_bytes).filter(|key| !key.contains(&0)).collect();
        let trie = Trie::new(keys.iter().zip(0..).map(|(key, value)| (key.as_slice(), value)).collect()).unwrap();
        for (key, value) in keys.iter().zip(0..) {
            assert_eq!(trie.longest(Trie::ROOT, key), Some((2, value)));
        }
    }

    /// Where every 64 characters had a block to themselves, a vocabulary of all of them was over the limit, and went to
    /// another engine unnoticed.
    #[test]
    fn characters_are_packed() {
        let mut keys: Vec<String> = ('\u{1}'..'\u{20000}').map(String::from).collect();
        keys.extend(('\u{1}'..'\u{20000}').map(|char| format!("##{char}")));
        let trie = Trie::new(keys.iter().zip(0..).map(|(key, value)| (key.as_bytes(), value)).collect()).unwrap();
        assert!(trie.units.len() < keys.len() * 9 / 8, "{} nodes for {} keys", trie.units.len(), keys.len());
        for (key, value) in keys.iter().zip(0..).step_by(7) {
            assert_eq!(trie.longest(Trie::ROOT, key.as_bytes()), Some((key.len(), value)));
        }
    }

    #[test]
    fn nul_is_no_byte_of_a_key() {
        let trie = Trie::new(vec![(b"a", 1), (b"ab", 2), (b"a\0", 3)]).unwrap();
        assert_eq!(trie.longest(Trie::ROOT, b"a\0"), Some((1, 1)));
        assert_eq!(trie.longest(Trie::ROOT, b"abc"), Some((2, 2)));
        assert_eq!(trie.longest(Trie::ROOT, b"\0"), None);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(Trie::new(vec![(b"a", 1 << 22)]).is_none());
        assert!(Trie::new(vec![(b"a", (1 << 22) - 1)]).is_some());
        assert!(Trie::new(Vec::new()).unwrap().longest(Trie::ROOT, b"a").is_none());
    }
}
