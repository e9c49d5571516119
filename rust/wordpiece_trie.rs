//! A double-array trie over bytes: for the longest token that a word begins with, one load and one compare a byte.

const FREE: u32 = u32::MAX;
const NO_VALUE: u32 = u32::MAX;
const BLOCK: usize = 256;
/// How many places are tried for a node with several children before a fresh block is taken.
const TRIES: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The child for byte `b` is at `base ^ b`, if its `parent` is this node.
    base: u32,
    parent: u32,
    value: u32,
}

const EMPTY: Node = Node { base: 0, parent: FREE, value: NO_VALUE };

/// A map from byte strings to `u32`, walked byte by byte.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    /// The node of the empty string.
    pub const ROOT: u32 = 0;

    /// The trie of distinct keys with their values, all of them below `u32::MAX`.
    pub fn new(mut entries: Vec<(&[u8], u32)>) -> Self {
        entries.sort_unstable();
        let mut nodes = vec![EMPTY; BLOCK];
        nodes[Self::ROOT as usize].parent = Self::ROOT;
        let mut first_free = 1;
        let mut children: Vec<(u8, usize, usize)> = Vec::new();
        let mut pending = vec![(Self::ROOT, 0, entries.len(), 0)];
        while let Some((node, mut first, last, depth)) = pending.pop() {
            if first < last && entries[first].0.len() == depth {
                nodes[node as usize].value = entries[first].1;
                first += 1;
            }
            children.clear();
            for (number, (key, _)) in entries[first..last].iter().enumerate() {
                match children.last_mut() {
                    Some((byte, _, end)) if *byte == key[depth] => *end = first + number + 1,
                    _ => children.push((key[depth], first + number, first + number + 1)),
                }
            }
            if children.is_empty() {
                continue;
            }
            let base = find_base(&mut nodes, &mut first_free, &children);
            nodes[node as usize].base = base;
            for &(byte, start, end) in &children {
                let child = base ^ u32::from(byte);
                nodes[child as usize].parent = node;
                pending.push((child, start, end, depth + 1));
            }
        }
        Self { nodes }
    }

    /// The node one byte further down, if some key goes on that way.
    #[inline]
    pub fn step(&self, node: u32, byte: u8) -> Option<u32> {
        let child = self.nodes[node as usize].base ^ u32::from(byte);
        // The root is its own parent, which must not make it a child.
        (self.nodes[child as usize].parent == node && child != Self::ROOT).then_some(child)
    }

    /// The value of the key that ends at a node.
    #[inline]
    pub fn value(&self, node: u32) -> Option<u32> {
        Some(self.nodes[node as usize].value).filter(|&value| value != NO_VALUE)
    }

    /// The node that a whole string leads to.
    pub fn walk(&self, key: &[u8]) -> Option<u32> {
        key.iter().try_fold(Self::ROOT, |node, &byte| self.step(node, byte))
    }

    /// The longest key that `text` begins with, from `root` on: its length and value.
    #[inline]
    pub fn longest(&self, root: u32, text: &[u8]) -> Option<(usize, u32)> {
        let mut best = None;
        let mut node = root;
        for (position, &byte) in text.iter().enumerate() {
            let Some(child) = self.step(node, byte) else { break };
            node = child;
            if let Some(value) = self.value(node) {
                best = Some((position + 1, value));
            }
        }
        best
    }
}

/// A base under which all children find a free place.
fn find_base(nodes: &mut Vec<Node>, first_free: &mut usize, children: &[(u8, usize, usize)]) -> u32 {
    while *first_free < nodes.len() && nodes[*first_free].parent != FREE {
        *first_free += 1;
    }
    let mut tries = 0;
    for place in *first_free..nodes.len() {
        if nodes[place].parent != FREE {
            continue;
        }
        let base = place ^ usize::from(children[0].0);
        if children.iter().all(|&(byte, ..)| nodes[base ^ usize::from(byte)].parent == FREE) {
            return base as u32;
        }
        tries += 1;
        if tries == TRIES {
            break;
        }
    }
    let base = nodes.len();
    nodes.resize(base + BLOCK, EMPTY);
    base as u32
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
            let trie = Trie::new(keys.iter().map(|(key, &value)| (key.as_bytes(), value)).collect());
            for text in texts.iter().chain(keys.keys()) {
                let longest = keys.iter().filter(|(key, _)| text.starts_with(key.as_str())).max_by_key(|(key, _)| key.len());
                let expected = longest.map(|(key, &value)| (key.len(), value));
                prop_assert_eq!(trie.longest(Trie::ROOT, text.as_bytes()), expected);
                let exact = trie.walk(text.as_bytes()).and_then(|node| trie.value(node));
                prop_assert_eq!(exact, keys.get(text).copied());
            }
        }
    }

    #[test]
    fn full_blocks_are_left_for_new_ones() {
        let keys: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_be_bytes).collect();
        let trie = Trie::new(keys.iter().zip(0..).map(|(key, value)| (key.as_slice(), value)).collect());
        for (key, value) in keys.iter().zip(0..) {
            assert_eq!(trie.longest(Trie::ROOT, key), Some((2, value)));
        }
    }
}
