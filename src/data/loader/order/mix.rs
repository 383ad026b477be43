//! How often an epoch visits each source: its weight.
//!
//! An epoch consists of *slots*. In the order of shards a slot is one visit of a shard, in the global order one of a
//! sample; both are *items* here. A source of `n` items and weight `w` has `n * floor(w) + round(n * (w - floor(w)))`
//! slots in every epoch: each item `floor(w)` times, and some of them once more. Those are the next ones of a fixed
//! permutation of the source's items, which goes round through the epochs, so that all get their turn equally often.
//! An epoch's length is constant, and no table is needed.
//!
//! With `resample` an epoch has as many slots, and each is drawn on its own, with a probability proportional to the
//! weight of its item's source.
//!
//! What is random about a visit is keyed by its slot, so that the visits of a sample in an epoch differ. With weights
//! of 1, slot and item are the same number.

use std::sync::Arc;

use crate::data::error::{DataError, Result};
use crate::random::{Permutation, Purpose, Random};

/// Larger weights are assumed to be typos.
const MAX_WEIGHT: f64 = 1000.0;
/// A weight is rounded to whole items; a larger relative difference than this is worth a warning.
const NOTED: f64 = 0.02;

/// # Errors
/// A weight out of range.
pub(crate) fn check(weight: f64) -> Result<()> {
    if weight > 0.0 && weight <= MAX_WEIGHT {
        return Ok(());
    }
    let problem = format!("it must be above 0 and at most {MAX_WEIGHT}");
    Err(DataError::Config { field: "weight", value: weight.to_string(), problem })
}

/// A source's part of an epoch.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    first_item: u64,
    items: u64,
    first_slot: u64,
    /// Slots in which some of its items are visited once more, or, with a weight below 1, at all.
    extra: u64,
    /// Weight times items, of this source and of those before it.
    share: f64,
}

/// Which item each slot of an epoch visits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    parts: Arc<[Part]>,
    slots: u64,
    resample: bool,
}

impl Mix {
    /// For sources with `items` items each; no `weights` means that all are 1.
    ///
    /// # Errors
    /// Another number of weights than of sources, a weight out of range, or one so small that no item gets a slot.
    pub(crate) fn new(items: &[u64], weights: &[f64], resample: bool) -> Result<Self> {
        let all = || weights.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        let wrong = |value: String, problem: String| Err(DataError::Config { field: "weight", value, problem });
        if !weights.is_empty() && weights.len() != items.len() {
            let problem = format!("data has {} sources, and each needs one weight", items.len());
            return wrong(all(), problem);
        }
        let (mut parts, mut item, mut slot, mut share) = (Vec::with_capacity(items.len()), 0, 0, 0.0);
        for (at, &count) in items.iter().enumerate() {
            let weight = weights.get(at).copied().unwrap_or(1.0);
            check(weight)?;
            let extra = (count as f64 * weight.fract()).round() as u64;
            let slots = count * weight.trunc() as u64 + extra;
            if slots == 0 && count > 0 && !resample {
                let problem =
                    format!("source {} has {count} shards or samples, and none of them would be visited", at + 1);
                return wrong(weight.to_string(), problem);
            }
            share += weight * count as f64;
            parts.push(Part { first_item: item, items: count, first_slot: slot, extra, share });
            (item, slot) = (item + count, slot + slots);
        }
        if slot > u64::from(u32::MAX) {
            return wrong(all(), format!("an epoch would have {slot} visits, and {} is the most", u32::MAX));
        }
        Ok(Self { parts: parts.into(), slots: slot.max(u64::from(item > 0)), resample })
    }

    /// One source of weight 1.
    #[cfg(test)]
    pub(crate) fn plain(items: u64) -> Self {
        Self::new(&[items], &[], false).unwrap()
    }

    /// Slots of an epoch.
    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    /// Whether slots are drawn, and need not be shuffled.
    pub(crate) fn resamples(&self) -> bool {
        self.resample
    }

    /// Whether an epoch visits every item once.
    pub(crate) fn is_plain(&self) -> bool {
        !self.resample && self.slots_of().all(|(slots, items)| slots == items)
    }

    /// Slots and items of each source.
    pub(crate) fn slots_of(&self) -> impl Iterator<Item = (u64, u64)> {
        let ends = self.parts.iter().skip(1).map(|part| part.first_slot).chain([self.slots]);
        self.parts.iter().zip(ends).map(|(part, end)| (end - part.first_slot, part.items))
    }

    /// The item that a slot visits in an epoch.
    pub(crate) fn item(&self, seed: u64, epoch: u64, slot: u64) -> u64 {
        if self.resample {
            return self.draw(&mut Random::new(seed, Purpose::Draw, epoch, slot));
        }
        let number = self.parts.partition_point(|part| part.first_slot <= slot).saturating_sub(1);
        // Sources without items have the first slot of the next one, which comes after them.
        let Part { first_item, items, first_slot, extra, .. } = self.parts[number];
        let end = self.parts.get(number + 1).map_or(self.slots, |next| next.first_slot);
        let (at, whole) = (slot - first_slot, end - first_slot - extra);
        if at < whole {
            return first_item + at % items;
        }
        let order = Permutation::new(seed, Purpose::Extra, number as u64, items);
        first_item + order.at((epoch % items * extra + at - whole) % items)
    }

    /// An item, drawn by the weights.
    fn draw(&self, random: &mut Random) -> u64 {
        let mut word = || u64::from(random.next_u32()) << 32 | u64::from(random.next_u32());
        let total = self.parts.last().map_or(0.0, |part| part.share);
        let drawn = (word() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let number = self.parts.partition_point(|part| part.share <= drawn).min(self.parts.len() - 1);
        let Part { first_item, items, .. } = self.parts[number];
        first_item + ((u128::from(word()) * u128::from(items)) >> 64) as u64
    }

    /// Warnings about weights that whole items do not allow; `items` is what they are.
    pub(crate) fn warnings(&self, weights: &[f64], items: &str) -> Vec<String> {
        let parts = weights.iter().zip(self.slots_of()).enumerate().filter(|_| !self.resample);
        let off = parts.filter_map(|(at, (&weight, (slots, count)))| {
            let is = slots as f64 / count as f64;
            let is_off = (is / weight - 1.0).abs() > NOTED;
            is_off.then(|| {
                format!(
                    "warning: source {} has {count} {items}, so its weight of {weight} becomes {is:.3}; weights hold by \
                     sample with --order global, and on average with --resample",
                    at + 1
                )
            })
        });
        off.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::cases;

    /// How often each item is visited in some epochs.
    fn counts(mix: &Mix, epochs: std::ops::Range<u64>) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for epoch in epochs {
            (0..mix.slots()).for_each(|slot| *counts.entry(mix.item(9, epoch, slot)).or_default() += 1);
        }
        counts
    }

    proptest! {
        #![proptest_config(cases(128))]

        /// Every epoch visits an item of a source `floor(w)` or `ceil(w)` times, and the source as often as promised;
        /// after any number of epochs, two items of a source differ by one visit at most.
        #[test]
        fn all_items_of_a_source_are_visited_equally_often(
            parts in proptest::collection::vec((0..30_u64, 1..13_u32), 1..5),
            first in 0..1_u64 << 40,
            epochs in 1..20_u64,
        ) {
            let items: Vec<u64> = parts.iter().map(|(items, _)| *items).collect();
            let weights: Vec<f64> = parts.iter().map(|(_, quarters)| f64::from(*quarters) / 4.0).collect();
            let Ok(mix) = Mix::new(&items, &weights, false) else {
                prop_assert!(items.iter().zip(&weights).any(|(&n, w)| n > 0 && (n as f64 * w).round() == 0.0));
                return Ok(());
            };
            let (one, all) = (counts(&mix, first..first + 1), counts(&mix, first..first + epochs));
            let mut item = 0;
            for (&count, &weight) in items.iter().zip(&weights) {
                let of = |counts: &BTreeMap<u64, u64>| -> Vec<u64> {
                    (item..item + count).map(|item| counts.get(&item).copied().unwrap_or_default()).collect()
                };
                let (one, all) = (of(&one), of(&all));
                let slots = count * weight.trunc() as u64 + (count as f64 * weight.fract()).round() as u64;
                prop_assert_eq!(one.iter().sum::<u64>(), slots);
                let range = weight.floor() as u64..=weight.ceil() as u64;
                prop_assert!(one.iter().all(|visits| range.contains(visits)), "{:?} of {}", one, weight);
                prop_assert_eq!(all.iter().sum::<u64>(), slots * epochs);
                let spread = all.iter().max().zip(all.iter().min()).map_or(0, |(max, min)| max - min);
                prop_assert!(spread <= 1, "{:?}", all);
                item += count;
            }
        }
    }

    /// Computed by hand from the rule, and by another implementation of the permutation in `random`'s tests.
    #[test]
    fn slots_are_numbered_source_by_source() {
        let mix = Mix::new(&[3, 0, 2], &[2.0, 1.0, 1.5], false).unwrap();
        let items = |epoch| (0..mix.slots()).map(|slot| mix.item(0, epoch, slot)).collect::<Vec<_>>();
        assert_eq!(items(0)[..8], [0, 1, 2, 0, 1, 2, 3, 4]);
        let extra = [items(0)[8], items(1)[8], items(2)[8], items(3)[8]];
        assert!(extra[0] != extra[1] && extra[..2] == extra[2..] && items(0).len() == 9, "{extra:?}");
        assert!(!mix.is_plain() && Mix::new(&[3, 4], &[1.0, 1.0], false).unwrap().is_plain());
        assert_eq!((0..7).map(|slot| Mix::plain(7).item(0, 5, slot)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
    }

    /// Five standard deviations of a binomial count.
    #[test]
    fn draws_follow_weights_and_sizes() {
        let mix = Mix::new(&[10, 1, 20], &[2.0, 0.001, 1.0], true).unwrap();
        let epochs = 1000;
        let (counts, draws) = (counts(&mix, 0..epochs), (mix.slots() * epochs) as f64);
        assert_eq!(mix.slots(), 40);
        for item in (0..10).chain(11..31) {
            let p = if item < 10 { 2.0 } else { 1.0 } / 40.001;
            let (mean, deviation) = (draws * p, (draws * p * (1.0 - p)).sqrt());
            assert!((counts[&item] as f64 - mean).abs() < 5.0 * deviation, "{item}: {} of {mean}", counts[&item]);
        }
        assert!(counts.get(&10).is_none_or(|&count| count < 10));
    }

    #[test]
    fn weights_that_cannot_be_are_refused_or_noted() {
        let error = |items: &[u64], weights: &[f64]| Mix::new(items, weights, false).unwrap_err().to_string();
        assert!(error(&[1, 2], &[1.0]).contains("weight = 1 is invalid: data has 2 sources"));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1001.0] {
            assert!(error(&[5], &[weight]).contains("above 0 and at most 1000"), "{weight}");
        }
        assert!(error(&[1, 2], &[1.0, 0.1]).contains("source 2 has 2 shards or samples, and none"));
        assert!(error(&[1 << 31], &[2.0]).contains("4294967296 visits"));
        let mix = Mix::new(&[1, 100], &[0.5, 0.5], false).unwrap();
        let warnings = mix.warnings(&[0.5, 0.5], "shards");
        assert!(warnings.len() == 1 && warnings[0].contains("source 1 has 1 shards"), "{warnings:?}");
        assert!(warnings[0].contains("its weight of 0.5 becomes 1.000"), "{warnings:?}");
    }
}
