//! Making new inputs of old ones: bits, bytes, pieces, words of the grammar.

/// FNV-1a, to name files and to derive seeds and splits from content.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A repeatable source of mutations.
pub struct Mutator(u64);

impl Mutator {
    /// The same seed gives the same inputs, as long as the pool grows alike.
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound` - 1; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    /// A range inside `length`, mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = (length - start).min(if self.below(8) == 0 { length } else { 16 });
        start..start + self.below(most + 1)
    }

    /// A member of the pool with one to eight changes.
    pub fn mutate(&mut self, pool: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        let mut input = pool[self.below(pool.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, pool, words);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&[u8]]) {
        match self.below(9) {
            0 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] ^= 1 << self.below(8);
            }
            1 if !input.is_empty() => {
                let at = self.below(input.len());
                input[at] = self.byte();
            }
            2 => {
                let at = self.below(input.len() + 1);
                let byte = self.byte();
                input.insert(at, byte);
            }
            3 => {
                let range = self.range(input.len());
                input.drain(range);
            }
            4 => {
                // A piece again, up to many times: long lines, deep nestings, big counts.
                let piece = input[self.range(input.len())].to_vec();
                let times = if self.below(16) == 0 {
                    self.below(2000)
                } else {
                    1 + self.below(3)
                };
                let at = self.below(input.len() + 1);
                input.splice(at..at, piece.repeat(times));
            }
            5 => {
                let other = &pool[self.below(pool.len())];
                let piece = other[self.range(other.len())].to_vec();
                let range = self.range(input.len());
                input.splice(range, piece);
            }
            6 | 7 if !words.is_empty() => {
                let word = words[self.below(words.len())];
                let range = if self.below(2) == 0 {
                    let at = self.below(input.len() + 1);
                    at..at
                } else {
                    self.range(input.len())
                };
                input.splice(range, word.iter().copied());
            }
            _ => {
                let keep = self.below(input.len() + 1);
                input.truncate(keep);
            }
        }
    }

    /// A byte, more often one that parsers look for.
    fn byte(&mut self) -> u8 {
        const TELLING: &[u8] = b"\r\n\0 \t.-<>@\"\\:;=[]()0129aA\x7f\x80\xc0\xff";
        if self.below(2) == 0 {
            TELLING[self.below(TELLING.len())]
        } else {
            self.next() as u8
        }
    }
}
