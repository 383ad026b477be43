//! Shuffled shards, in groups whose samples are mixed.
//!
//! The slots of an epoch (`mix`), each of which visits a shard, are permuted, and a stream takes every `streams`-th of
//! them, a *group* of up to 16 at a time. The samples of a group are merged at random, each shard's in its own order;
//! the result is cut into windows of up to 8,192 samples, each of which is shuffled. So shards are read from front to
//! back, and a stream's state is the number of its group and a place in it.
//!
//! With fewer shards than streams, every stream takes all shards, and every `streams`-th sample of each.
//!
//! A group depends on the lengths of its own shards alone. A thread opens the next group while the current one is in
//! use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender};

use super::mix::Mix;
use super::{News, Share, StreamPosition, Visit};
use crate::data::dataset::{Opened, ShardList};
use crate::data::error::{DataError, Result};
use crate::data::loader::effort::Counters;
use crate::data::text::list_some;
use crate::random::{Permutation, Purpose, Random};

/// Shards that are mixed.
pub(super) const GROUP: u64 = 16;
/// Samples that are shuffled together.
pub(super) const WINDOW: usize = 8192;

/// Which shards a stream visits when.
#[derive(Clone, Debug)]
pub(crate) struct ShardOrder {
    pub(crate) seed: u64,
    pub(crate) share: Share,
    /// How the shards of the list are mixed.
    pub(crate) mix: Mix,
}

impl ShardOrder {
    /// Whether all streams take all shards.
    fn splits_shards(&self) -> bool {
        self.mix.slots() < self.share.streams
    }

    /// Shards that the stream takes in an epoch.
    fn shards_in(&self, epoch: u64) -> u64 {
        let slots = self.mix.slots();
        if self.splits_shards() { slots } else { self.share.count(epoch, slots) }
    }

    /// Groups of about the same size that they form.
    pub(crate) fn groups_in(&self, epoch: u64) -> u64 {
        self.shards_in(epoch).div_ceil(GROUP)
    }

    /// The places of a group's shards among those that the stream takes in the epoch.
    fn places(&self, epoch: u64, group: u64) -> std::ops::Range<u64> {
        let (shards, groups) = (self.shards_in(epoch), self.groups_in(epoch));
        group * shards / groups..(group + 1) * shards / groups
    }

    /// The slots of a group; with weights of 1, these are the numbers of its shards.
    pub(crate) fn group(&self, epoch: u64, group: u64) -> Vec<u32> {
        let slots = self.mix.slots();
        let order = Permutation::new(self.seed, Purpose::Shards, epoch, slots);
        let item = |place| if self.splits_shards() { place } else { self.share.item(epoch, slots, place) };
        let slot = |item| if self.mix.resamples() { item } else { order.at(item) };
        self.places(epoch, group).map(|place| slot(item(place)) as u32).collect()
    }

    /// The order in which a group's samples are visited, if its shards have `lengths`: which shard of the group, and
    /// which sample of that shard.
    pub(crate) fn visits(&self, epoch: u64, group: u64, lengths: &[u64]) -> Vec<(u32, u32)> {
        let part = |&len: &u64| if self.splits_shards() { self.share.count(epoch, len) } else { len };
        let mut left: Vec<u64> = lengths.iter().map(part).collect();
        let mut random = Random::new(self.seed, Purpose::Group, epoch, self.share.stream << 32 | group);
        let mut taken = vec![0; lengths.len()];
        let mut total: u64 = left.iter().sum();
        let mut visits = Vec::with_capacity(total as usize);
        while total > 0 {
            let mut drawn = u64::from(random.below(u32::try_from(total).unwrap_or(u32::MAX)));
            let mut shard = 0;
            while drawn >= left[shard] {
                drawn -= left[shard];
                shard += 1;
            }
            let sample = match self.splits_shards() {
                true => self.share.item(epoch, lengths[shard], taken[shard]),
                false => taken[shard],
            };
            visits.push((shard as u32, sample as u32));
            left[shard] -= 1;
            taken[shard] += 1;
            total -= 1;
        }
        let windows = visits.len().div_ceil(WINDOW).max(1);
        let size = visits.len().div_ceil(windows).max(1);
        for window in visits.chunks_mut(size) {
            let order = random.permutation(window.len());
            let shuffled: Vec<(u32, u32)> = order.iter().map(|&at| window[at as usize]).collect();
            window.copy_from_slice(&shuffled);
        }
        visits
    }

    /// The group after another.
    fn after(&self, epoch: u64, group: u64) -> (u64, u64) {
        if group + 1 < self.groups_in(epoch) { (epoch, group + 1) } else { (epoch + 1, 0) }
    }
}

/// A group whose shards are open.
pub(crate) struct Group {
    epoch: u64,
    group: u64,
    /// The slot of each of its shards.
    slots: Vec<u32>,
    opened: Opened,
    visits: Vec<(u32, u32)>,
    /// The share of the epoch's shards that come before it, and with it.
    progress: [f64; 2],
}

/// Opens groups, one ahead of the one in use.
pub(crate) struct Opener {
    pub(crate) list: Arc<ShardList>,
    pub(crate) order: ShardOrder,
    pub(crate) start: StreamPosition,
    pub(crate) threads: usize,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counters: Arc<Counters>,
}

impl Opener {
    /// Opens groups until there is an error, or the receiver is dropped. `groups` holds none, so that no more than two
    /// are open.
    pub(crate) fn run(self, groups: &Sender<Result<Group>>) {
        let (mut epoch, mut group) = (self.start.epoch, self.start.group);
        while !self.stop.load(Ordering::Relaxed) {
            let Some(opened) = self.open(epoch, group).transpose() else { return };
            let failed = opened.is_err();
            if groups.send(opened).is_err() || failed {
                return;
            }
            (epoch, group) = self.order.after(epoch, group);
        }
    }

    fn open(&self, epoch: u64, group: u64) -> Result<Option<Group>> {
        let slots = self.order.group(epoch, group);
        let number = |&slot: &u32| self.order.mix.item(self.order.seed, epoch, u64::from(slot)) as u32;
        let numbers: Vec<u32> = slots.iter().map(number).collect();
        let Some(opened) = self.list.open_all(&numbers, self.threads, &self.stop)? else { return Ok(None) };
        self.counters.opened(opened.shards.iter().filter_map(|(_, shard)| Some(shard.as_ref()?.bytes())).sum());
        let visits = self.order.visits(epoch, group, &opened.lengths().collect::<Vec<_>>());
        let (places, all) = (self.order.places(epoch, group), self.order.shards_in(epoch) as f64);
        let progress = [places.start, places.end].map(|place| place as f64 / all);
        Ok(Some(Group { epoch, group, slots, opened, visits, progress }))
    }
}

/// The visits of a stream from a position onwards.
pub(crate) struct ShardVisits {
    list: Arc<ShardList>,
    order: ShardOrder,
    groups: Receiver<Result<Group>>,
    /// The group in use.
    group: Option<Group>,
    index: usize,
    /// What was found out about groups since the last visit.
    news: Vec<News>,
    /// Groups without a sample, one after the other.
    empty: u64,
    counters: Arc<Counters>,
}

impl ShardVisits {
    /// `groups` come from an [`Opener`] with the same start.
    pub(crate) fn new(
        list: Arc<ShardList>,
        order: ShardOrder,
        start: StreamPosition,
        groups: Receiver<Result<Group>>,
        counters: Arc<Counters>,
    ) -> Self {
        let index = start.index as usize;
        Self { list, order, groups, group: None, index, news: Vec::new(), empty: 0, counters }
    }

    pub(super) fn next(&mut self) -> Result<Visit> {
        loop {
            if let Some(group) = self.group.as_ref()
                && let Some(&(slot, number)) = group.visits.get(self.index)
                && let (shard_number, Some(shard)) = &group.opened.shards[slot as usize]
            {
                self.index += 1;
                let (index, of) = (self.index as u64, group.visits.len() as u64);
                let next = match self.order.after(group.epoch, group.group) {
                    _ if index < of => StreamPosition { epoch: group.epoch, group: group.group, index },
                    (epoch, group) => StreamPosition { epoch, group, index: 0 },
                };
                let [before, with] = group.progress;
                let passes = group.epoch as f64 + before + (with - before) * index as f64 / of as f64;
                let place = (*shard_number, number);
                let (sample, held) = (ShardList::id(place.0, place.1), self.list.held(shard, place));
                let key = ShardList::id(group.slots[slot as usize], number);
                let news = (!self.news.is_empty()).then(|| std::mem::take(&mut self.news).into());
                return Ok(Visit { sample, held, epoch: group.epoch, key, next, passes, news });
            }
            self.next_group()?;
        }
    }

    /// Waits for the next group.
    fn next_group(&mut self) -> Result<()> {
        let index = std::mem::take(&mut self.index);
        // Closes its shards, except those that are still being read.
        let is_first = self.group.take().is_none();
        let group = self.counters.opening(|| self.groups.recv()).map_err(|_| DataError::Ended)??;
        let of = group.visits.len();
        if is_first && index > 0 {
            if index >= of {
                let problem = format!(
                    "the group of shards has {of} samples; are these the shards that the checkpoint was made with?"
                );
                return Err(DataError::Config { field: "position", value: index.to_string(), problem });
            }
            self.index = index;
        }
        let shards = group.opened.shards.iter().map(|(number, _)| *number).zip(group.opened.lengths()).collect();
        // What all streams find is counted once.
        let is_of_another = self.order.splits_shards() && self.order.share.stream > 0;
        let is_counted = is_of_another || self.index > 0;
        let lost = if is_counted { 0 } else { group.opened.lost };
        let warnings = if is_of_another { Vec::new() } else { group.opened.warnings.clone() };
        self.news.push(News { epoch: group.epoch, shards, is_counted, lost, warnings });
        self.empty = if of == 0 { self.empty + 1 } else { 0 };
        // If there are samples at all, every stream has some in one of as many epochs as there are streams.
        if self.empty > (self.order.groups_in(0) + 1) * self.order.share.streams {
            let reasons = format!(
                "no shard has samples: {}",
                list_some(self.news.iter().flat_map(|news| news.warnings.iter().cloned()))
            );
            return Err(DataError::NoGoodSample { visited: 0, reasons });
        }
        self.group = Some(group);
        Ok(())
    }
}
