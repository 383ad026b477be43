//! Training batches, prepared ahead of time on threads; batches for evaluation.
//!
//! ```text
//!             jobs (bounded)          done (bounded)               batches (bounded)
//! assembler ----------------> workers ---------------> assembler --------------------> next_batch
//!     ^  numbers the visits    decode in any order     restores the order, skips           |
//!     +---------------------------------- recycled buffers <-------------------------------+
//! ```
//!
//! The content of a batch depends on the seed, the number of streams and the start position alone: the assembler takes
//! finished items of each stream strictly in the order of its visits, and each item's random numbers are keyed by
//! (seed, purpose, epoch, slot), where a slot is one visit of a sample. Broken samples are skipped in that order too.
//! In the order of shards, another thread for each stream opens the shards that come next. Workers write pixels into
//! the memory of the batch.
//!
//! | file | what it does |
//! |---|---|
//! | `config` | what can be chosen |
//! | `order` | epochs, shuffles, streams, the position that a run resumes from |
//! | `worker`, `assemble` | the threads |
//! | `batch`, `rows` | what they make, and its memory |
//! | `prepare` | what a worker does with a sample |
//! | `health`, `tally`, `totals` | count broken samples: of a stream, of all streams, of all ranks |
//! | `limit` | when there are too many of them |
//! | `effort` | counts what the threads do |
//! | `eval` | batches for evaluation |

mod assemble;
mod batch;
#[cfg(test)]
mod by_shard;
#[cfg(test)]
mod by_weight;
mod config;
mod effort;
mod eval;
#[cfg(all(test, feature = "remote"))]
mod fetched;
mod health;
mod limit;
mod order;
mod prepare;
#[cfg(test)]
mod proptests;
mod rows;
#[cfg(all(test, feature = "turbo"))]
mod scaled;
mod tally;
#[cfg(test)]
mod tests;
mod totals;
#[cfg(all(test, feature = "parquet"))]
mod unpacked;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Select, Sender, bounded};

use self::assemble::{Assembler, Made, Stream};
pub use self::batch::Batch;
pub(crate) use self::batch::part_of;
pub use self::config::{Epoch, LoaderConfig};
use self::effort::{Counters, Laps};
pub use self::effort::{Effort, Stages};
pub use self::eval::{EvalBatch, EvalBatches};
use self::health::Health;
pub use self::limit::Skipped;
use self::limit::{Limit, Visited};
use self::order::mix::Mix;
use self::order::shards::{Opener, ShardOrder, ShardVisits};
use self::order::{GlobalVisits, Share, Visits};
pub use self::order::{Position, StreamPosition};
pub use self::prepare::Origin;
pub(crate) use self::prepare::{Item, Preparer};
use self::rows::Rows;
use self::tally::Tallies;
pub use self::tally::Tally;
pub use self::totals::Found;
use self::totals::Totals;
use self::worker::Worker;
use super::dataset::TrainingData;
use super::error::{DataError, Result};
use super::sample::Tokenizer;

/// Prepares batches on threads, which decode, crop, mask and tokenise.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while dropping, which ends the threads.
    batches: Option<Receiver<Made>>,
    recycled: Sender<Batch>,
    totals: Totals,
    /// What the totals do not have yet, if there are streams on other ranks, too.
    pending: Option<Tallies>,
    /// Whether it has the first stream. Of several loaders that count the same, this one warns of shards.
    is_first: bool,
    warnings: Vec<String>,
    passes: f64,
    counters: Arc<Counters>,
    workers: usize,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts the threads. The first batch begins at `start`, and so does the count of broken samples.
    ///
    /// # Errors
    /// A configuration out of range, a `start` beyond the data set or for another number of streams, or threads that
    /// cannot be started.
    pub fn new(
        data: impl Into<TrainingData>,
        tokenizer: Tokenizer,
        config: LoaderConfig,
        start: Position,
    ) -> Result<Self> {
        let all = 0..config.streams;
        Self::of_streams(data, tokenizer, config, start, all)
    }

    /// As [`Self::new`], with the rows of the streams `own` alone: `batch / streams` of each. The shards of other
    /// streams are not opened, and their positions stay as in `start`.
    ///
    /// # Errors
    /// As [`Self::new`]; also if `own` is empty or has others than there are.
    pub fn of_streams(
        data: impl Into<TrainingData>,
        tokenizer: Tokenizer,
        config: LoaderConfig,
        start: Position,
        own: Range<usize>,
    ) -> Result<Self> {
        let data = data.into();
        config.validate()?;
        if own.is_empty() || own.end > config.streams {
            let problem = format!("the streams {own:?} are not some of them");
            return Err(DataError::Config { field: "streams", value: config.streams.to_string(), problem });
        }
        let workers = match config.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        // Enough items in flight that one slow image does not leave the other workers idle.
        let window = 8 * workers + 32;
        let (batches_in, batches) = bounded(config.prefetch);
        let (recycled, recycled_out) = bounded(config.prefetch + 2);
        let order = if matches!(data, TrainingData::Listed(_)) { Visited::ByShard } else { Visited::Shuffled };
        let mix = config.mix(&data)?;
        let limit = Limit::new(data.clone(), config.max_bad, order, mix.is_plain());
        let (totals, health) = (Totals::new(limit.clone(), &start), Health::new(limit, own.clone(), config.streams));
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader = Self {
            batches: Some(batches),
            recycled,
            totals,
            pending: (own.len() < config.streams).then(Tallies::default),
            is_first: own.start == 0,
            warnings: Vec::new(),
            passes: 0.0,
            counters: Arc::default(),
            workers,
            stop: stop.clone(),
            threads: Vec::new(),
        };
        // Declared after the loader, and so dropped before it: if a thread cannot be started, the loader's `drop` joins
        // the others, which end when the channel of jobs is closed.
        let (jobs, jobs_out) = bounded(window);
        // As large as the window, so that a worker never waits to send its item.
        let (done_in, done) = bounded(window);
        for number in 0..workers {
            let worker = Worker::new(tokenizer.clone(), config.clone(), loader.counters.clone());
            let (jobs, done) = (jobs_out.clone(), done_in.clone());
            loader.spawn(format!("decode-{number}"), move || worker.run(&jobs, &done))?;
        }
        let streams = loader.streams(&data, &mix, &config, workers, &start, own.clone())?;
        let (position, first, each) = (start, own.start, config.batch / config.streams);
        let rows = Rows::new(config.row_bytes(), each * streams.len());
        let (in_flight, next_row, spare) = (0, 0, Vec::new());
        let (laps, counters) = (Laps::new(config.time_stages), loader.counters.clone());
        let assembler = Assembler {
            streams,
            first,
            each,
            position,
            window,
            in_flight,
            next_row,
            jobs,
            done,
            health,
            stop,
            laps,
            counters,
            rows,
            spare,
        };
        loader.spawn("assemble".to_owned(), move || assembler.run(&recycled_out, &batches_in))?;
        Ok(loader)
    }

    /// The streams `own` from `start` on.
    fn streams(
        &mut self,
        data: &TrainingData,
        mix: &Mix,
        config: &LoaderConfig,
        threads: usize,
        start: &Position,
        own: Range<usize>,
    ) -> Result<Vec<Stream>> {
        if start.streams.len() != config.streams {
            let problem = format!("the checkpoint has {}, which a resumed run must keep", start.streams.len());
            return Err(DataError::Config { field: "streams", value: config.streams.to_string(), problem });
        }
        let beyond = |value: u64, has: String| {
            let problem = format!("the data set has {has}; is it the one the checkpoint was made with?");
            Err(DataError::Config { field: "position", value: value.to_string(), problem })
        };
        let mut streams = Vec::with_capacity(own.len());
        for number in own {
            let start = start.streams[number];
            let share = Share { stream: number as u64, streams: config.streams as u64 };
            let visits = match data {
                TrainingData::Indexed(dataset) => {
                    if start.index >= mix.slots() {
                        return beyond(start.index, format!("{} samples", mix.slots()));
                    }
                    Visits::Global(GlobalVisits::new(dataset.clone(), config.seed, share, mix.clone(), start))
                }
                TrainingData::Listed(list) => {
                    let order = ShardOrder { seed: config.seed, share, mix: mix.clone() };
                    let groups = order.groups_in(start.epoch);
                    if start.group >= groups.max(1) {
                        return beyond(start.group, format!("{groups} groups of shards"));
                    }
                    let (groups_in, groups) = bounded(0);
                    let (stop, counters) = (self.stop.clone(), self.counters.clone());
                    let opener = Opener { list: list.clone(), order: order.clone(), start, threads, stop, counters };
                    self.spawn(format!("open-{number}"), move || opener.run(&groups_in))?;
                    Visits::Shards(ShardVisits::new(list.clone(), order, start, groups, self.counters.clone()))
                }
            };
            streams.push(Stream::new(visits));
        }
        Ok(streams)
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(thread::Builder::new().name(name).spawn(body).map_err(DataError::Threads)?);
        Ok(())
    }

    /// Waits until the next batch is ready, which is true, or `stop` is set.
    pub fn wait(&self, stop: &AtomicBool) -> bool {
        let Some(batches) = &self.batches else { return true };
        let mut select = Select::new();
        select.recv(batches);
        while select.ready_timeout(Duration::from_millis(100)).is_err() {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
        }
        true
    }

    /// The next batch. Waits until it is ready.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`], [`DataError::NoGoodSample`] or [`DataError::Unreadable`], after the batches before
    /// it; then [`DataError::Ended`].
    pub fn next_batch(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let batches = self.batches.as_ref().ok_or(DataError::Ended)?;
        let Made { batch, tallies, warnings, passes } = batches.recv().map_err(|_| DataError::Ended)?;
        self.passes = passes;
        self.warnings.extend(warnings);
        let counted = match &mut self.pending {
            Some(pending) => {
                tallies.all().for_each(|tally| pending.add(tally));
                Ok(())
            }
            None => self.count_all(tallies.all()),
        };
        let mut batch = batch?;
        counted.inspect_err(|_| self.batches = None)?;
        batch.waited = start.elapsed();
        Ok(batch)
    }

    /// Returns a batch, so that its buffers are reused.
    pub fn recycle(&self, batch: Batch) {
        // Dropped if enough are waiting already.
        let _ = self.recycled.try_send(batch);
    }

    /// Passes over the data up to the last batch returned, since the beginning of the run.
    pub fn passes(&self) -> f64 {
        self.passes
    }

    /// What its threads have done so far, also for batches that are still waiting.
    pub fn effort(&self) -> Effort {
        self.counters.effort()
    }

    /// The number of decoding threads.
    pub fn threads(&self) -> usize {
        self.workers
    }

    /// What the streams of this loader found, if it does not have all of them, and [`Self::count`] did not yet count.
    pub fn pending(&self) -> Vec<Tally> {
        self.pending.iter().flat_map(Tallies::all).collect()
    }

    /// Counts what the streams of all loaders found, this one's included.
    ///
    /// # Errors
    /// [`DataError::TooManyBroken`].
    pub fn count(&mut self, tallies: &[Tally]) -> Result<()> {
        self.count_all(tallies.iter().copied())
    }

    fn count_all(&mut self, tallies: impl Iterator<Item = Tally> + Clone) -> Result<()> {
        if let Some(pending) = &mut self.pending {
            *pending = Tallies::default();
        }
        let counted = self.totals.add(tallies);
        let warnings = self.totals.take_warnings();
        self.warnings.extend(warnings.into_iter().filter(|_| self.is_first));
        counted
    }

    /// Goes on from what was found before the run was resumed, so that the limit of broken samples holds for the whole
    /// epoch, and all are counted.
    pub fn resume(&mut self, found: Found) {
        self.totals.resume(found);
    }

    /// What was found up to the last batch returned, but for what is [pending](Self::pending).
    pub fn found(&self) -> &Found {
        self.totals.found()
    }

    /// Broken samples that were skipped up to the last batch returned, and samples lost to damage, by kind.
    pub fn skipped(&self) -> Skipped {
        self.totals.found().skipped.clone()
    }

    /// Warnings since the last call: the first few broken samples by name.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The assembler can no longer send and ends. That closes the channel of jobs, and so the workers end.
        self.batches = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
