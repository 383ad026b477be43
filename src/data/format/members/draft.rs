//! Chooses the parts of each sample, also where names are repeated or several members could be the same part.

use std::collections::{BTreeMap, HashMap};

use super::name::printable;
use super::slot::{SLOTS, Slot};
use super::unused::Unused;

/// A member that may be a part of a sample.
pub(super) struct Part<'a> {
    pub(super) member: usize,
    pub(super) key: &'a [u8],
    /// In lower case.
    pub(super) extension: Vec<u8>,
    pub(super) slot: Slot,
    /// Smaller is preferred.
    pub(super) rank: u8,
}

/// The rank of compound extensions.
pub(super) const COMPOUND: u8 = u8::MAX;

/// A sample that is being put together: the part in each slot, by number.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) first: usize,
    pub(super) parts: [Option<usize>; SLOTS],
}

/// Chooses the parts of each sample.
pub(super) fn draft(parts: &[Part], has_plain: [bool; SLOTS], unused: &mut Unused) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut repeated: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut left_out: Vec<usize> = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let place = *places.entry(part.key).or_insert_with(|| {
            drafts.push(Draft { first: number, ..Draft::default() });
            drafts.len() - 1
        });
        // In an archive with plain extensions, `7.depth.png` does not replace a missing `7.png`.
        if part.rank == COMPOUND && has_plain[part.slot as usize] {
            left_out.push(number);
            continue;
        }
        let holder = &mut drafts[place].parts[part.slot as usize];
        match holder.map(|held| &parts[held]) {
            None => *holder = Some(number),
            Some(held) if held.extension == part.extension => drop(repeated.insert(part.key, Vec::new())),
            Some(held) => {
                let loser = if part.rank < held.rank { holder.replace(number) } else { Some(number) };
                note(&mut unused.second, parts, loser);
            }
        }
    }
    for number in left_out {
        let part = &parts[number];
        let sample = places.get(part.key).map(|&place| &drafts[place]);
        if sample.is_some_and(|sample| sample.parts[part.slot as usize].is_none()) {
            note(&mut unused.compound, parts, Some(number));
        }
    }
    if !repeated.is_empty() {
        split_repeated(parts, has_plain, repeated, &mut drafts, unused);
    }
    // In a slot without plain extensions, the unused ones are compound.
    for (slot, (count, example)) in std::mem::take(&mut unused.second) {
        let to = if has_plain[slot as usize] { &mut unused.second } else { &mut unused.compound };
        to.insert(slot, (count, example));
    }
    drafts
}

fn note(counts: &mut BTreeMap<Slot, (u64, String)>, parts: &[Part], part: Option<usize>) {
    let Some(part) = part.map(|part| &parts[part]) else { return };
    let name = || format!("{}.{}", printable(part.key), printable(&part.extension));
    counts.entry(part.slot).or_insert_with(|| (0, name())).0 += 1;
}

/// Splits repeated keys into samples. If all names with a key occur equally often, the first ones are a sample, the
/// second ones are the next, and so on. Otherwise members belong together if they are adjacent, up to a repeated name.
/// What is left is counted as incomplete samples: no image gets the caption of another.
fn split_repeated(
    parts: &[Part],
    has_plain: [bool; SLOTS],
    mut repeated: HashMap<&[u8], Vec<usize>>,
    drafts: &mut Vec<Draft>,
    unused: &mut Unused,
) {
    for (number, part) in parts.iter().enumerate() {
        let is_used = part.rank != COMPOUND || !has_plain[part.slot as usize];
        if let Some(of_key) = repeated.get_mut(part.key).filter(|_| is_used) {
            of_key.push(number);
        }
    }
    drafts.retain(|draft| !repeated.contains_key(parts[draft.first].key));
    let count = repeated.len() as u64;
    let example = repeated.keys().min().map_or_else(String::new, |key| printable(key));
    let mut repeated: Vec<Vec<usize>> = repeated.into_values().collect();
    repeated.sort_unstable();
    for of_key in repeated {
        let mut times: BTreeMap<(Slot, &[u8]), usize> = BTreeMap::new();
        let nth: Vec<usize> = of_key
            .iter()
            .map(|&number| {
                let time = times.entry((parts[number].slot, &parts[number].extension)).or_default();
                *time += 1;
                *time - 1
            })
            .collect();
        let max = times.values().copied().max().unwrap_or_default();
        let even = times.values().all(|&times| times == max);
        let mut of_key_drafts: Vec<Draft> = Vec::new();
        let mut last = None;
        for (&number, nth) in of_key.iter().zip(nth) {
            let part = &parts[number];
            let slot = part.slot as usize;
            // Drafts are in the order of occurrence.
            let place = (even && nth < of_key_drafts.len()).then_some(nth);
            let is_adjacent =
                last.is_some_and(|last: usize| parts[last..number].iter().all(|other| other.key == part.key));
            let fits = |draft: &Draft| draft.parts[slot].is_none_or(|held| parts[held].extension != part.extension);
            let place = place.or_else(|| (!even && is_adjacent).then(|| of_key_drafts.len() - 1));
            let place = place.filter(|&place| even || fits(&of_key_drafts[place])).unwrap_or_else(|| {
                of_key_drafts.push(Draft { first: number, ..Draft::default() });
                of_key_drafts.len() - 1
            });
            let holder = &mut of_key_drafts[place].parts[slot];
            let loser = match *holder {
                Some(held) if parts[held].rank <= part.rank => Some(number),
                _ => holder.replace(number),
            };
            note(&mut unused.second, parts, loser);
            last = Some(number);
        }
        drafts.extend(of_key_drafts);
    }
    drafts.sort_by_key(|draft| draft.first);
    unused.repeated = Some((count, example));
}
