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
//! | `order` | epochs, shuffles, streams, the position that a run resumes from |
//! | `worker`, `assemble` | the threads |
//! | `batch`, `rows` | what they make, and its memory |
//! | `prepare` | what a worker does with a sample |
//! | `health` | counts broken samples |
//! | `effort` | counts what the threads do |
//! | `eval` | batches for evaluation |

mod assemble;
mod batch;
#[cfg(test)]
mod by_shard;
#[cfg(test)]
mod by_weight;
mod effort;
mod eval;
#[cfg(all(test, feature = "remote"))]
mod fetched;
mod health;
mod order;
mod prepare;
#[cfg(test)]
mod proptests;
mod rows;
#[cfg(all(test, feature = "turbo"))]
mod scaled;
#[cfg(test)]
mod tests;
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
use self::effort::{Counters, Laps};
pub use self::effort::{Effort, Stages};
pub use self::eval::{EvalBatch, EvalBatches};
pub use self::health::Skipped;
use self::health::{Health, Visited};
use self::order::mix::{self, Mix};
use self::order::shards::{Opener, ShardOrder, ShardVisits};
use self::order::{GlobalVisits, Share, Visits};
pub use self::order::{Position, StreamPosition};
pub use self::prepare::Origin;
pub(crate) use self::prepare::{Item, Preparer};
use self::rows::Rows;
use self::worker::Worker;
use super::dataset::TrainingData;
use super::error::{DataError, Result};
use super::sample::{Augmentation, CaptionVariation, Tokenizer, kept_patches};

/// Configuration of a [`Loader`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch: usize,
    /// Streams that the order is cut into; divides `batch`.
    pub streams: usize,
    /// How often an epoch visits the samples of each source; empty: once. In the order of shards, what is beyond a
    /// whole number goes to some shards, which change from epoch to epoch.
    pub weights: Vec<f64>,
    /// Whether samples (or shards) are drawn with replacement.
    pub resample: bool,
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Share of patches that are left out, in `[0, 1)`.
    pub mask_ratio: f64,
    /// Tokens per caption.
    pub context: usize,
    /// Seed of the order, crops, masks and captions.
    pub seed: u64,
    /// How images are varied.
    pub augmentation: Augmentation,
    /// How captions are varied.
    pub captions: CaptionVariation,
    /// Decoding threads; 0 means one per core.
    pub threads: usize,
    /// Batches that are prepared ahead.
    pub prefetch: usize,
    /// Share of broken samples above which loading stops; 1 stops only if no sample is good.
    pub max_bad: f32,
    /// Whether the threads time what they do ([`Effort::stages`]); takes a microsecond or two per sample.
    pub time_stages: bool,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 256,
            streams: 1,
            weights: Vec::new(),
            resample: false,
            image_size: 224,
            patch_size: 16,
            mask_ratio: 0.5,
            context: 32,
            seed: 0,
            augmentation: Augmentation::default(),
            captions: CaptionVariation::default(),
            threads: 0,
            prefetch: 2,
            max_bad: 0.1,
            time_stages: false,
        }
    }
}

impl LoaderConfig {
    /// Patches of a whole image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Visible patches of an image.
    pub fn kept(&self) -> usize {
        kept_patches(self.patches(), self.mask_ratio)
    }

    /// Bytes of the visible patches of an image.
    fn row_bytes(&self) -> usize {
        self.kept() * self.patch_size.pow(2) * 3
    }

    /// Which samples or shards an epoch visits.
    fn mix(&self, data: &TrainingData) -> Result<Mix> {
        Mix::new(&data.source_items(), &self.weights, self.resample)
    }

    /// What an epoch of `data` is. Also checks that the weights fit the data.
    ///
    /// # Errors
    /// Weights that are out of range, or not as many as there are sources.
    pub fn epoch(&self, data: &TrainingData) -> Result<Epoch> {
        let mix = self.mix(data)?;
        if mix.is_plain() {
            return Ok(Epoch { samples: data.samples(), notes: Vec::new() });
        }
        let visits = |((slots, items), samples): ((u64, u64), Option<u64>)| {
            Some(samples? as f64 * slots as f64 / items.max(1) as f64)
        };
        let samples = mix.slots_of().zip(data.source_samples()).map(visits).sum::<Option<f64>>();
        let samples = samples.map(|samples| samples.round() as u64);
        let items = if matches!(data, TrainingData::Listed(_)) { "shards" } else { "samples" };
        let mut notes = mix.warnings(&self.weights, items);
        let how = if self.resample { ", drawn with replacement" } else { "" };
        notes.push(match samples {
            Some(samples) if items == "shards" => {
                format!("an epoch has {} visits of shards{how}, about {samples} pairs", mix.slots())
            }
            _ => format!("an epoch has {} visits of {items}{how}", mix.slots()),
        });
        Ok(Epoch { samples, notes })
    }

    /// Checks all fields.
    ///
    /// # Errors
    /// [`DataError::Config`] with the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, value: &dyn ToString, problem: &str| {
            Err(DataError::Config { field, value: value.to_string(), problem: problem.to_owned() })
        };
        for (field, value) in [
            ("batch", self.batch),
            ("streams", self.streams),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("context", self.context),
            ("prefetch", self.prefetch),
        ] {
            if value == 0 {
                return wrong(field, &value, "it must be at least 1");
            }
        }
        // Larger values are assumed to be typos.
        for (field, value, max) in [("prefetch", self.prefetch, 10_000), ("loader_threads", self.threads, 4096)] {
            if value > max {
                return wrong(field, &value, &format!("it must be at most {max}"));
            }
        }
        if !self.batch.is_multiple_of(self.streams) {
            return wrong("streams", &self.streams, &format!("it must divide the batch of {}", self.batch));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return wrong(
                "image_size",
                &self.image_size,
                &format!("it must be a multiple of patch_size = {}", self.patch_size),
            );
        }
        self.weights.iter().try_for_each(|&weight| mix::check(weight))?;
        if !(0.0..1.0).contains(&self.mask_ratio) {
            return wrong("mask_ratio", &self.mask_ratio, "it must be 0 <= ratio < 1");
        }
        if !(0.0..=1.0).contains(&self.max_bad) {
            return wrong("max_bad", &self.max_bad, "it must be 0 <= share <= 1");
        }
        if !(0.0..=1.0).contains(&self.captions.tag_chance) {
            return wrong("tag_chance", &self.captions.tag_chance, "it must be 0 <= chance <= 1");
        }
        self.augmentation.validate()
    }
}

/// How long an epoch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Visits of samples, if that is known; with weights that are no whole numbers, and with draws, on average.
    pub samples: Option<u64>,
    /// What is worth knowing about weights, a line each.
    pub notes: Vec<String>,
}

/// Prepares batches on threads, which decode, crop, mask and tokenise.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while dropping, which ends the threads.
    batches: Option<Receiver<Made>>,
    recycled: Sender<Batch>,
    skipped: Skipped,
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
        let health = Health::new(data.clone(), config.max_bad, order);
        let health = if mix.is_plain() { health } else { health.with_mix(config.epoch(&data)?.samples) };
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader = Self {
            batches: Some(batches),
            recycled,
            skipped: health.skipped(),
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
        let Made { batch, skipped, warnings, passes } = batches.recv().map_err(|_| DataError::Ended)?;
        (self.skipped, self.passes) = (skipped, passes);
        self.warnings.extend(warnings);
        let mut batch = batch?;
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

    /// Broken samples that were skipped up to the last batch returned, and samples lost to damage, by kind.
    pub fn skipped(&self) -> Skipped {
        self.skipped.clone()
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
