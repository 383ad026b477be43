//! Mutations of a file. Every choice is a number of [`Random`], so that an input is a function of its number.

use crate::random::Random;

/// Numbers at which lengths, counts and offsets go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    60_000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 40,
    1 << 60,
    u64::MAX >> 1,
    u64::MAX,
];

/// An input is extended by repetition to about this many bytes, now and then.
const LONG: usize = 1 << 16;
/// Inputs do not grow beyond this.
const MAX: usize = 1 << 18;

/// One of `seeds` after one to eight mutations; tokens come from `words`.
pub(super) fn mutated(random: &mut Random, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = pick(random, seeds).clone();
    let most = 1 + random.below(8);
    let count = 1 + random.below(most);
    for _ in 0..count {
        mutate(random, &mut bytes, seeds, words);
        bytes.truncate(MAX);
    }
    bytes
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[random.below(from.len() as u32) as usize]
}

/// A place in `0..=len`.
fn place(random: &mut Random, len: usize) -> usize {
    random.below(len as u32 + 1) as usize
}

/// A part of `len` bytes, mostly a short one.
fn part(random: &mut Random, len: usize) -> std::ops::Range<usize> {
    let start = place(random, len);
    let most = if random.below(4) == 0 { len - start } else { (len - start).min(32) };
    start..start + place(random, most)
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&[u8]]) {
    let len = bytes.len();
    let at = place(random, len);
    match random.below(14) {
        0 | 1 if at < len => bytes[at] ^= 1 << random.below(8),
        2 if at < len => bytes[at] = random.next_u32() as u8,
        // A length, count or offset of the header.
        3 | 4 => {
            let edge = *pick(random, &EDGES);
            let width = *pick(random, &[2, 4, 8]);
            let field = if random.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let field = if field[0] == edge as u8 { &field[..width] } else { &field[8 - width..] };
            let at = if random.below(2) == 0 { at.min(64) } else { at };
            overwrite(bytes, at, field);
        }
        5 => number(random, bytes, at),
        6 if !words.is_empty() => {
            let word = pick(random, words);
            let replaced = if random.below(2) == 0 { at..at } else { at..len.min(at + word.len()) };
            drop(bytes.splice(replaced, word.iter().copied()));
        }
        7 => drop(bytes.drain(part(random, len))),
        8 => {
            let copy = bytes[part(random, len)].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        9 => {
            let other = pick(random, seeds);
            let rest = &other[place(random, other.len())..];
            bytes.truncate(at);
            bytes.extend_from_slice(rest);
        }
        10 => {
            let other = pick(random, seeds);
            let copy = other[part(random, other.len())].to_vec();
            overwrite(bytes, at, &copy);
        }
        11 => bytes.truncate(at),
        12 if random.below(32) == 0 => {
            let repeated = bytes[part(random, len)].to_vec();
            let times = LONG.checked_div(repeated.len()).unwrap_or(0);
            drop(bytes.splice(at..at, repeated.repeat(times)));
        }
        _ => {
            let count = 1 + random.below(8);
            let noise: Vec<u8> = (0..count).map(|_| random.next_u32() as u8).collect();
            drop(bytes.splice(at..at, noise));
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in bytes[at..].iter_mut().zip(with) {
        *to = *from;
    }
}

/// Replaces the digits after `at` by another number, of as many digits every other time.
fn number(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else { return };
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let edge = pick(random, &EDGES).wrapping_add(u64::from(random.below(3))).wrapping_sub(1);
    let text = match random.below(4) {
        0 => format!("{edge}"),
        1 => format!("-{edge}"),
        2 => format!("{edge}e{}", random.below(400)),
        _ => format!("{edge:0digits$o}").chars().take(digits).collect(),
    };
    drop(bytes.splice(start..start + digits, text.into_bytes()));
}
