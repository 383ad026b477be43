//! What a run trains on: samples that are all indexed beforehand, or shards that are opened when their turn comes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::view::View;
use super::{Dataset, ShardList, sources};
use crate::data::error::Result;
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;
use crate::data::store::Location;

/// More shards or samples than this are visited shard by shard, unless the user asks for the other order.
const MANY_SHARDS: usize = 1000;
const MANY_SAMPLES: u64 = 10_000_000;
/// The same for shards that are not on disk, all of which would be fetched before the first step.
const MANY_FETCHED: usize = 64;

/// In which order a run visits its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// `shards` with more than 1,000 shards, or 64 that are not on disk, or where files next to the shards say that
    /// there are more than 10 million samples; else `global`
    #[default]
    Auto,
    /// One shuffle of all samples: every shard is indexed before training, and samples are read from all of them
    Global,
    /// Shuffled shards, a few at a time, whose samples are mixed: each shard is opened when its turn comes, and read
    /// once
    Shards,
}

/// The data of a run.
#[derive(Clone, Debug)]
pub enum TrainingData {
    /// In the order `global`.
    Indexed(Arc<Dataset>),
    /// In the order `shards`.
    Listed(Arc<ShardList>),
}

impl From<Arc<Dataset>> for TrainingData {
    fn from(dataset: Arc<Dataset>) -> Self {
        Self::Indexed(dataset)
    }
}

impl From<Arc<ShardList>> for TrainingData {
    fn from(list: Arc<ShardList>) -> Self {
        Self::Listed(list)
    }
}

impl TrainingData {
    /// Opens the shards of `specs` as [`Dataset::open`] does, or only looks at some of them. `cache`: a file with the
    /// numbers of samples in shards that were opened before ([`Self::write_counts`]).
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open<S: AsRef<str>>(
        specs: &[S],
        keys: CaptionKeys,
        decoding: Decoding,
        order: Order,
        cache: Option<&Path>,
    ) -> Result<Self> {
        let sources = sources(specs, &keys.access)?;
        if order != Order::Global {
            let locations: Vec<Location> = sources.iter().flat_map(|source| source.shards.iter().cloned()).collect();
            let mut counts = Counts::find(&locations, cache, &keys.access, None);
            let fetched = locations.iter().filter(|location| location.is_elsewhere()).count();
            let are_many = locations.len() > MANY_SHARDS
                || fetched > MANY_FETCHED
                || counts.total.is_some_and(|samples| samples > MANY_SAMPLES);
            if order == Order::Shards || are_many {
                if let filter @ Some(_) = &keys.filter {
                    counts = Counts::find(&locations, cache, &keys.access, filter.as_ref());
                }
                let list = ShardList::of(&sources, locations, counts, specs, keys)?;
                return Ok(Arc::new(list.with_decoding(decoding)).into());
            }
        }
        Ok(Arc::new(Dataset::of(&sources, specs, keys)?.with_decoding(decoding)).into())
    }

    /// Where to write the number of samples in each shard, as they are found.
    pub fn write_counts(&self, path: PathBuf) {
        if let Self::Listed(list) = self {
            list.write_counts(path);
        }
    }

    /// Never [`Order::Auto`].
    pub fn order(&self) -> Order {
        match self {
            Self::Indexed(_) => Order::Global,
            Self::Listed(_) => Order::Shards,
        }
    }

    /// The number of samples, if it is known.
    pub fn samples(&self) -> Option<u64> {
        match self {
            Self::Indexed(dataset) => Some(dataset.len() as u64),
            Self::Listed(list) => list.samples(),
        }
    }

    /// What is said about it in the first line of a run.
    pub fn describe(&self) -> String {
        match self {
            Self::Indexed(dataset) => format!("{} pairs", dataset.len()),
            Self::Listed(list) => list.describe(),
        }
    }

    /// The samples that can be looked at before training: all, or those of a few shards.
    pub fn looked_at(&self) -> &Dataset {
        match self {
            Self::Indexed(dataset) => dataset,
            Self::Listed(list) => list.looked_at(),
        }
    }

    /// A position of a run means the same samples only in data with the same fingerprint: [`Dataset::fingerprint`], or
    /// a checksum of the names of all shards and of the samples of a few.
    pub fn fingerprint(&self) -> u32 {
        match self {
            Self::Indexed(dataset) => dataset.fingerprint(),
            Self::Listed(list) => list.fingerprint(),
        }
    }

    /// Warnings about the shards, a line each.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Indexed(dataset) => dataset.warnings(),
            Self::Listed(list) => list.warnings(),
        }
    }

    /// `shard:key` of each sample of a batch, for messages.
    pub fn names(&self, samples: &[u64]) -> Vec<String> {
        let unknown = |&sample: &u64| {
            let (shard, number) = ShardList::place(sample);
            format!("{}: sample {number}", self.shard_location(shard))
        };
        let names = self.each(samples, |view| view.name()).into_iter().zip(samples);
        names.map(|(name, sample)| name.unwrap_or_else(|| unknown(sample))).collect()
    }

    /// `look` at each sample again; `None` where its shard can no longer be read.
    pub(crate) fn each<T>(&self, samples: &[u64], mut look: impl FnMut(View<'_>) -> T) -> Vec<Option<T>> {
        match self {
            Self::Indexed(dataset) => samples.iter().map(|&sample| Some(look(dataset.view(sample)))).collect(),
            Self::Listed(list) => list.each(samples, look),
        }
    }

    /// What is weighed: the number of shards in each source, or of samples if all are indexed.
    pub(crate) fn source_items(&self) -> Vec<u64> {
        match self {
            Self::Indexed(dataset) => dataset.source_lengths(),
            Self::Listed(list) => list.source_shards(),
        }
    }

    /// The number of samples in each source, if it is known.
    pub(crate) fn source_samples(&self) -> Vec<Option<u64>> {
        match self {
            Self::Indexed(dataset) => dataset.source_lengths().into_iter().map(Some).collect(),
            Self::Listed(list) => list.source_samples(),
        }
    }

    pub(crate) fn shards(&self) -> usize {
        match self {
            Self::Indexed(dataset) => dataset.shards.len(),
            Self::Listed(list) => list.shards(),
        }
    }

    pub(crate) fn shard_number(&self, sample: u64) -> u32 {
        match self {
            Self::Indexed(dataset) => dataset.shard_number(sample) as u32,
            Self::Listed(_) => ShardList::place(sample).0,
        }
    }

    pub(crate) fn shard_location(&self, number: u32) -> &Location {
        match self {
            Self::Indexed(dataset) => dataset.shard_location(number as usize),
            Self::Listed(list) => list.location(number),
        }
    }

    /// An estimate of the samples that were lost to damage in all shards; 0 if they are not open yet.
    pub(crate) fn lost(&self) -> u64 {
        match self {
            Self::Indexed(dataset) => dataset.lost(),
            Self::Listed(_) => 0,
        }
    }
}
