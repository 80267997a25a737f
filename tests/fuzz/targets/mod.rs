//! What is fuzzed, and what must hold for any input.

mod address;
mod control;
mod dkim;
mod dns;
mod server;
mod smtp;
mod sts;
mod tlsrpt;

use std::mem::discriminant;

use crate::mutate::fnv;

/// One parser.
pub struct Target {
    /// Also the name of its corpus folder.
    pub name: &'static str,
    /// Words of its grammar.
    pub words: &'static [&'static [u8]],
    /// Reads the input, checks what must hold, and returns the shape of what it saw. Panics when something is wrong.
    pub run: fn(&[u8]) -> u64,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    address::ADDRESS,
    address::DOMAIN,
    control::LINE,
    dkim::SIGN,
    dkim::VERIFY,
    dns::DNS,
    server::HEADER,
    server::SESSION,
    smtp::DATA,
    smtp::PARAMS,
    smtp::REPLY,
    sts::HTTP,
    sts::POLICY,
    sts::RECORD,
    tlsrpt::RECORD,
];

/// Folds what was seen into one number.
fn shape(parts: &[u64]) -> u64 {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    fnv(&bytes)
}

/// The number behind a variant without its fields.
fn kind<T>(value: &T) -> u64 {
    fnv(format!("{:?}", discriminant(value)).as_bytes())
}

/// A number by its magnitude, so that shapes do not differ by every length.
fn magnitude(number: usize) -> u64 {
    u64::from(usize::BITS - number.leading_zeros())
}

/// The input in pieces of 1 to 16 octets, or many of one octet; which ones depends on its content alone, so that a
/// finding can be replayed.
fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = fnv(input) | 1;
    let mut rest = input;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let length = 1 + (state % 31).saturating_sub(15) as usize;
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        Some(piece)
    })
}
