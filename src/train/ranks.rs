//! What the ranks of a run agree on.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};

use super::{Options, Settings, TrainError};
use crate::data::{Found, Position, StreamPosition, Tally, text};
use crate::group::{Group, GroupError};

/// What a rank is about to do; the highest vote decides for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Vote {
    /// Another step.
    Go,
    /// Save a checkpoint and stop, because the user asked for it.
    Stop,
    /// Save a checkpoint and stop, because its data failed.
    Fail,
}

/// What all ranks agreed on before a step.
#[derive(Debug, PartialEq)]
pub(super) struct Agreed {
    /// The highest vote.
    pub vote: Vote,
    /// The first rank that cast it.
    pub rank: usize,
    /// What all ranks found in their data. Empty as long as no rank has news, or [`MAX_PENDING`] tallies.
    pub tallies: Vec<Tally>,
}

/// Tallies that a rank may keep to itself, if none is news.
const MAX_PENDING: usize = 4096;

/// Compares the votes, and shares what each rank found in its data.
pub(super) fn agree(group: &dyn Group, own: Vote, pending: &[Tally]) -> Result<Agreed, GroupError> {
    let is_news = pending.iter().any(Tally::is_news) || pending.len() >= MAX_PENDING;
    let all = group.all([own as u32, pending.len() as u32, is_news.into()])?;
    let highest = all.iter().map(|[vote, ..]| *vote).max().unwrap_or_default();
    let vote = [Vote::Go, Vote::Stop, Vote::Fail].into_iter().find(|vote| *vote as u32 == highest).unwrap_or(own);
    let rank = all.iter().position(|[vote, ..]| *vote == highest).unwrap_or_default();
    let tallies = match all.iter().any(|[.., is_news]| *is_news != 0) {
        true => gather_tallies(group, pending, &all.iter().map(|[_, len, _]| *len).collect::<Vec<_>>())?,
        false => Vec::new(),
    };
    Ok(Agreed { vote, rank, tallies })
}

/// The first rank on which something failed. Every rank that may fail alike asks, since the cause may be on one machine
/// alone.
pub(super) fn first_failed(group: &dyn Group, failed: bool) -> Result<Option<usize>, GroupError> {
    Ok(group.all(u32::from(failed))?.iter().position(|&failed| failed != 0))
}

/// Fills in the micro-batches of a run on several ranks, if the user did not say how many.
pub(super) fn divide(options: &mut Options, group: &dyn Group) {
    if group.size() > 1 {
        options.micro_batches.get_or_insert(group.size());
    }
}

/// Whether the ranks of `group` can share the run.
///
/// # Errors
/// If its micro-batches or streams cannot be divided; the error lists the numbers of ranks that fit.
pub(super) fn check(settings: &Settings, group: &dyn Group) -> Result<(), TrainError> {
    let (ranks, micro_batches, streams) = (group.size(), settings.micro_batches, settings.loader.streams);
    let fits = |ranks: usize| {
        micro_batches.is_multiple_of(ranks)
            && (micro_batches / ranks).is_power_of_two()
            && streams.is_multiple_of(ranks)
    };
    if ranks == 1 || fits(ranks) {
        return Ok(());
    }
    let fitting: Vec<String> =
        (1..=micro_batches).filter(|&ranks| fits(ranks)).map(|ranks| ranks.to_string()).collect();
    let fitting = if fitting.is_empty() { "only one".to_owned() } else { fitting.join(", ") };
    let problem = format!(
        "{ranks} ranks cannot share {micro_batches} {} of {}: each needs equally many, and a power of two of them; these \
         numbers of ranks fit: {fitting}",
        if micro_batches == 1 { "micro-batch" } else { "micro-batches" },
        text::count(streams as u64, "stream"),
    );
    Err(TrainError::Settings { problem })
}

/// The streams of the data that this rank reads.
pub(super) fn own_streams(settings: &Settings, group: &dyn Group) -> Range<usize> {
    let each = settings.loader.streams / group.size();
    group.rank() * each..(group.rank() + 1) * each
}

/// Broadcasts a path from rank 0.
pub(super) fn broadcast_path(group: &dyn Group, own: &Path) -> Result<PathBuf, TrainError> {
    let bytes = group.broadcast_bytes(own.as_os_str().as_encoded_bytes())?;
    let problem = || TrainError::Settings { problem: "rank 0 sent a path that is not UTF-8".to_owned() };
    match group.is_root() {
        true => Ok(own.to_owned()),
        false => Ok(String::from_utf8(bytes).map_err(|_| problem())?.into()),
    }
}

/// Options that may differ between ranks: where files lie on each machine, and how they are read. The data's
/// fingerprint is compared instead. All others decide what is computed, or when ranks call each other.
const OF_MACHINE: [&str; 11] = [
    "cache",
    "cache_size",
    "classes",
    "data",
    "eval_data",
    "index_cache",
    "io_timeout",
    "labels",
    "loader_threads",
    "templates",
    "tokenizer",
];

/// Checks that all ranks run the same version with the same options on the same data.
///
/// # Errors
/// Names the first rank that differs from rank 0, and in what.
pub(super) fn compare(group: &dyn Group, options: &Options, fingerprint: u32) -> Result<(), TrainError> {
    if group.size() == 1 {
        return Ok(());
    }
    let mut table = toml::Table::try_from(options)?;
    table.retain(|key, _| !OF_MACHINE.contains(&key));
    // Whether there are any decides which calls ranks make.
    let evaluates = options.eval_data.as_ref().map(|data| !data.is_empty());
    table.extend(evaluates.map(|evaluates| ("eval_data".to_owned(), evaluates.into())));
    let hash = |bytes: &[u8]| crc32c::crc32c(bytes);
    let own = [hash(env!("CARGO_PKG_VERSION").as_bytes()), hash(table.to_string().as_bytes()), fingerprint];
    let all = group.all(own)?;
    for (what, index) in [("version of flipk", 0), ("options", 1), ("training data", 2)] {
        if let Some(rank) = all.iter().position(|other| other[index] != all[0][index]) {
            let problem = format!("rank {rank} has other {what} than rank 0: start all ranks with the same command");
            return Err(TrainError::Settings { problem });
        }
    }
    Ok(())
}

/// Adds what all ranks found and did not tell yet.
pub(super) fn gather_pending(group: &dyn Group, found: &mut Found, pending: &[Tally]) -> Result<(), GroupError> {
    let lengths = group.all(pending.len() as u32)?;
    found.add(gather_tallies(group, pending, &lengths)?);
    Ok(())
}

/// The tallies of all ranks, whose numbers are `lengths`.
fn gather_tallies(group: &dyn Group, own: &[Tally], lengths: &[u32]) -> Result<Vec<Tally>, GroupError> {
    let Some(longest) = lengths.iter().max().map(|&len| len as usize).filter(|&len| len > 0) else {
        return Ok(Vec::new());
    };
    let mut blocks = vec![Tally::zeroed(); longest * lengths.len()];
    blocks[longest * group.rank()..][..own.len()].copy_from_slice(own);
    group.all_gather(bytemuck::cast_slice_mut(&mut blocks), longest * size_of::<Tally>() / 4)?;
    let of_ranks = blocks.chunks(longest).zip(lengths);
    Ok(of_ranks.flat_map(|(block, &len)| block[..len as usize].iter().copied()).collect())
}

/// Gathers the positions of all streams; each rank has advanced its `own`.
pub(super) fn gather_positions(
    group: &dyn Group,
    position: &mut Position,
    own: Range<usize>,
) -> Result<(), TrainError> {
    if group.size() == 1 {
        return Ok(());
    }
    let plain = |at: &StreamPosition| [at.epoch, at.group, at.index];
    let mut all: Vec<u64> = position.streams.iter().flat_map(plain).collect();
    let block = own.len() * 3 * size_of::<u64>() / size_of::<u32>();
    group.all_gather(bytemuck::cast_slice_mut(&mut all), block)?;
    for (at, values) in position.streams.iter_mut().zip(all.as_chunks::<3>().0) {
        let [epoch, group, index] = *values;
        *at = StreamPosition { epoch, group, index };
    }
    Ok(())
}

/// What a rank did since the last line of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RankStats {
    /// Seconds spent waiting for data.
    pub waited: f64,
    /// Seconds of its steps in which it waited neither for data nor for other ranks; where devices move data between
    /// ranks by themselves, those of its device's backward passes.
    pub busy: f64,
    /// Seconds that its threads computed.
    pub computed: f64,
    /// Images decoded.
    pub images: u64,
    /// Passes over its part of the data.
    pub passes: f64,
}

/// The stats of all ranks.
pub(super) struct GroupStats(Vec<RankStats>);

impl GroupStats {
    pub(super) fn gather(group: &dyn Group, own: RankStats) -> Result<Self, GroupError> {
        Ok(Self(group.all(own)?))
    }

    /// The sum of a quantity over all ranks.
    pub(super) fn sum<T: std::iter::Sum>(&self, of: impl Fn(&RankStats) -> T) -> T {
        self.0.iter().map(of).sum()
    }

    /// The mean of a quantity over all ranks.
    pub(super) fn mean(&self, of: impl Fn(&RankStats) -> f64) -> f64 {
        self.sum(of) / self.0.len() as f64
    }

    /// A quantity of each rank.
    pub(super) fn each(&self, of: impl Fn(&RankStats) -> f64) -> Vec<f64> {
        self.0.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::StreamPosition;
    use crate::group::Threads;

    /// Runs `body` on each rank of a group.
    fn on_ranks<T: Send + 'static>(size: usize, body: impl Fn(&dyn Group) -> T + Clone + Send + 'static) -> Vec<T> {
        let start = |group: Threads| {
            let body = body.clone();
            std::thread::spawn(move || (body(&group), group))
        };
        let ranks: Vec<_> = Threads::group(size).into_iter().map(start).collect();
        let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        ranks.into_iter().map(|(result, _)| result).collect()
    }

    #[test]
    fn the_highest_vote_decides() {
        let votes = [Vote::Go, Vote::Fail, Vote::Stop, Vote::Fail];
        let found = on_ranks(4, move |group| agree(group, votes[group.rank()], &[]).unwrap());
        assert!(found.iter().all(|found| (found.vote, found.rank) == (Vote::Fail, 1)));
        assert!(on_ranks(3, |group| agree(group, Vote::Go, &[]).unwrap()).iter().all(|found| found.vote == Vote::Go));
    }

    #[test]
    fn what_ranks_found_is_shared_once_a_sample_is_bad() {
        let told = |bad: bool, visits: usize| {
            let found = on_ranks(3, move |group| {
                let mut pending = vec![Tally::default(); group.rank() * visits];
                pending.extend((bad && group.rank() == 1).then(|| Tally::lost(7)));
                agree(group, Vote::Go, &pending).unwrap().tallies
            });
            assert!(found.iter().all(|other| *other == found[0]));
            found[0].clone()
        };
        assert_eq!(told(false, 2), []);
        let plain = Tally::default();
        assert_eq!(told(true, 2), [plain, plain, Tally::lost(7), plain, plain, plain, plain]);
        assert_eq!(told(false, MAX_PENDING).len(), 3 * MAX_PENDING);
    }

    #[test]
    fn positions_of_all_streams_come_together() {
        let at =
            |stream: usize| StreamPosition { epoch: 1 << 40, group: stream as u64, index: u64::MAX - stream as u64 };
        let found = on_ranks(3, move |group| {
            let own = group.rank() * 2..group.rank() * 2 + 2;
            let mut position = Position::start(6);
            own.clone().for_each(|stream| position.streams[stream] = at(stream));
            gather_positions(group, &mut position, own).unwrap();
            position.streams
        });
        let expected: Vec<_> = (0..6).map(at).collect();
        assert!(found.iter().all(|found| *found == expected));
    }

    #[test]
    fn a_rank_with_other_options_or_data_is_named() {
        let compared = |seeds: [u64; 3], data: [u32; 3]| {
            let found = on_ranks(3, move |group| {
                let options = Options {
                    seed: Some(seeds[group.rank()]),
                    loader_threads: Some(group.rank()),
                    ..Options::default()
                };
                compare(group, &options, data[group.rank()]).err().map(|error| error.to_string()).unwrap_or_default()
            });
            assert!(found.iter().all(|other| *other == found[0]));
            found[0].clone()
        };
        assert_eq!(compared([1; 3], [5; 3]), "");
        assert!(compared([1, 1, 2], [5; 3]).contains("rank 2 has other options than rank 0"));
        let changed: [fn(&mut Options); 5] = [
            |options| options.save_every = Some(7),
            |options| options.log_every = Some(7),
            |options| options.eval_every = Some(7),
            |options| options.prefetch = Some(7),
            |options| options.eval_data = Some(Vec::new()),
        ];
        for change in changed {
            let found = on_ranks(2, move |group| {
                let mut options = Options { eval_data: Some(vec![group.rank().to_string()]), ..Options::default() };
                if group.rank() == 1 {
                    change(&mut options);
                }
                compare(group, &options, 5).is_err()
            });
            assert_eq!(found, [true; 2]);
        }
        assert!(compared([1; 3], [5, 6, 5]).contains("rank 1 has other training data"));
    }
}
