//! The order in which samples are visited: each once per epoch, or as often as the weight of its source says, in an
//! order that is shuffled for each epoch.
//!
//! The order is cut into streams. Each has a position of its own and skips its own broken samples, so what it visits
//! does not depend on the other streams. A batch takes equal parts from all of them: rows `v * batch / streams` and up
//! are those of stream `v`.
//!
//! | file | what it does |
//! |---|---|
//! | `global` | one shuffle of all samples |
//! | `shards` | shuffled shards, in groups whose samples are mixed |
//! | `mix` | how often an epoch visits each source |
//!
//! The order is a function of the seed, the data set, the weights and the number of streams alone.

mod global;
pub(super) mod mix;
pub(super) mod shards;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(super) use self::global::GlobalVisits;
use self::shards::ShardVisits;
use crate::data::dataset::Held;
use crate::data::error::Result;

/// A place in the endless sequence of a stream's visits: all that must be saved to resume from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamPosition {
    /// From 0.
    pub epoch: u64,
    /// The stream's group of shards in this epoch; 0 in the global order.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group: u64,
    /// Visits that the stream made in this group, good and broken samples alike.
    pub index: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where the next batch starts: the position of each stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Position {
    /// At least one.
    pub streams: Vec<StreamPosition>,
}

/// A [`Position`] in a checkpoint. That of a single stream is as it was before there were several.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Saved {
    One(StreamPosition),
    Several(Vec<StreamPosition>),
}

impl From<Saved> for Position {
    fn from(saved: Saved) -> Self {
        match saved {
            Saved::One(stream) => Self { streams: vec![stream] },
            Saved::Several(streams) => Self { streams },
        }
    }
}

impl From<Position> for Saved {
    fn from(position: Position) -> Self {
        match position.streams[..] {
            [stream] => Self::One(stream),
            _ => Self::Several(position.streams),
        }
    }
}

impl Position {
    /// The very beginning, for `streams` streams.
    pub fn start(streams: usize) -> Self {
        Self { streams: vec![StreamPosition::default(); streams] }
    }
}

impl Default for Position {
    /// The very beginning, for one stream.
    fn default() -> Self {
        Self::start(1)
    }
}

/// One use of a sample.
#[derive(Clone)]
pub(super) struct Visit {
    /// Number of the sample in the data set.
    pub(super) sample: u64,
    pub(super) held: Held,
    pub(super) epoch: u64,
    /// With the epoch, the key of the visit's random numbers: no two visits of an epoch have the same.
    pub(super) key: u64,
    /// Where the stream is after it.
    pub(super) next: StreamPosition,
    /// Passes over the stream's part of the data after it.
    pub(super) passes: f64,
    /// What was found out about shards since the visit before, group by group.
    pub(super) news: Option<Arc<[News]>>,
}

/// What is found out when a group of shards is opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) epoch: u64,
    /// Numbers and sample counts of the shards.
    pub(super) shards: Vec<(u32, u64)>,
    /// Whether they are counted elsewhere: before the run was resumed, or by the first stream.
    pub(super) is_counted: bool,
    /// An estimate of their lost samples.
    pub(super) lost: u64,
    pub(super) warnings: Vec<String>,
}

/// The visits of one stream.
pub(super) enum Visits {
    Global(GlobalVisits),
    Shards(ShardVisits),
}

impl Visits {
    /// # Errors
    /// A shard that cannot be read.
    pub(super) fn next(&mut self) -> Result<Visit> {
        match self {
            Self::Global(visits) => Ok(visits.next()),
            Self::Shards(visits) => visits.next(),
        }
    }
}

/// The part that one stream takes of an endless sequence that consists of epochs: every `streams`-th item, counted
/// through all epochs, so that no stream falls behind the others where the items of an epoch cannot be shared out
/// evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) stream: u64,
    pub(super) streams: u64,
}

impl Share {
    /// The first of its items in an epoch of `len` items.
    fn first(self, epoch: u64, len: u64) -> u64 {
        let before = (epoch % self.streams) * (len % self.streams) % self.streams;
        (self.stream + self.streams - before) % self.streams
    }

    /// How many of an epoch's items it takes.
    pub(super) fn count(self, epoch: u64, len: u64) -> u64 {
        len.saturating_sub(self.first(epoch, len)).div_ceil(self.streams)
    }

    /// Its item number `index` in an epoch.
    pub(super) fn item(self, epoch: u64, len: u64, index: u64) -> u64 {
        self.first(epoch, len) + index * self.streams
    }
}
