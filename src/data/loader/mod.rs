//! Training batches, made ahead of time on threads.
//!
//! ```text
//!             jobs (bounded)          done (bounded)               batches (bounded)
//! assembler ----------------> workers ---------------> assembler --------------------> next_batch
//!     ^  numbers the visits    decode in any order     restores the order, skips           |
//!     +---------------------------------- recycled buffers <-------------------------------+
//! ```
//!
//! Which samples make a batch, and what is in it, is a function of the seed and the start position alone: the
//! assembler takes finished items strictly in the order of the visits, and each item's random numbers are keyed by
//! (seed, purpose, epoch, sample). Broken samples are skipped in that order too.

mod assemble;
mod eval;
mod health;
mod order;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use self::assemble::{Assembler, Made, Queue};
pub use self::eval::{EvalBatch, EvalBatches};
pub use self::health::Skipped;
use self::health::{Health, Visited};
pub use self::order::Position;
use self::order::Visits;
use self::worker::Worker;
use super::dataset::Dataset;
use super::error::{Error, Result};
use super::sample::{Augmentation, CaptionVariation, Tokenizer, kept_patches};

/// What a [`Loader`] makes.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch: usize,
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Share of the patches that is left out, in `[0, 1)`.
    pub mask_ratio: f64,
    /// Tokens per caption.
    pub context: usize,
    pub seed: u64,
    pub augmentation: Augmentation,
    pub captions: CaptionVariation,
    /// Decoding threads; 0 is one per core.
    pub threads: usize,
    /// Finished batches kept ready.
    pub prefetch: usize,
    /// Share of broken samples in the data set above which loading stops; 1 stops only if there is no good one.
    pub max_bad: f32,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 256,
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
        }
    }
}

impl LoaderConfig {
    /// Patches of a whole image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Patches that are visible.
    pub fn kept(&self) -> usize {
        kept_patches(self.patches(), self.mask_ratio)
    }

    /// # Errors
    /// Names the first field that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, value: &dyn ToString, problem: &str| {
            Err(Error::Config { field, value: value.to_string(), problem: problem.to_owned() })
        };
        for (field, value) in [
            ("batch", self.batch),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("context", self.context),
            ("prefetch", self.prefetch),
        ] {
            if value == 0 {
                return wrong(field, &value, "it must be at least 1");
            }
        }
        // What is asked for at once beyond these is a slip of the pen.
        for (field, value, most) in [("prefetch", self.prefetch, 10_000), ("loader_threads", self.threads, 4096)] {
            if value > most {
                return wrong(field, &value, &format!("it must be at most {most}"));
            }
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return wrong(
                "image_size",
                &self.image_size,
                &format!("it must be a multiple of patch_size = {}", self.patch_size),
            );
        }
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

/// One training batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// RGB, `[batch, side, side, 3]`.
    pub images: Vec<u8>,
    /// `[batch, context]`.
    pub tokens: Vec<i32>,
    /// Visible patches in ascending order, `[batch, kept]`.
    pub ids_keep: Vec<u32>,
    /// Numbers of the samples in the data set, `[batch]`.
    pub samples: Vec<u64>,
    /// Where to start for the batches after this one.
    pub next: Position,
    /// How long [`Loader::next_batch`] waited for it.
    pub waited: Duration,
}

/// Makes batches on threads; its loader threads decode, crop, mask and tokenise.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while dropping, to tell the threads to end.
    batches: Option<Receiver<Made>>,
    recycled: Sender<Batch>,
    skipped: Skipped,
    warnings: Vec<String>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts the threads; the first batch begins at `start`. Broken samples are counted from there.
    ///
    /// # Errors
    /// A configuration out of range, a `start` beyond the data set, or threads that cannot be started.
    pub fn new(dataset: Arc<Dataset>, tokenizer: Tokenizer, config: LoaderConfig, start: Position) -> Result<Self> {
        config.validate()?;
        if start.index >= dataset.len() as u64 {
            let problem =
                format!("the data set has {} samples; is it the one the checkpoint was made with?", dataset.len());
            return Err(Error::Config { field: "position", value: start.index.to_string(), problem });
        }
        let workers = match config.threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        // Enough items under way that one slow image does not leave the other workers idle.
        let window = 8 * workers + 32;
        let (batches_in, batches) = bounded(config.prefetch);
        let (recycled, recycled_out) = bounded(config.prefetch + 2);
        let health = Health::new(&dataset, config.max_bad, Visited::Shuffled);
        let stop = Arc::new(AtomicBool::new(false));
        let mut loader = Self {
            batches: Some(batches),
            recycled,
            skipped: health.skipped(),
            warnings: Vec::new(),
            stop: stop.clone(),
            threads: Vec::new(),
        };
        // Declared after the loader, and so dropped before it: if a thread cannot be started, the loader waits for the others,
        // and these end when there can be no more jobs.
        let (jobs, jobs_out) = bounded(window);
        // As wide as the window, so that a worker never waits to hand over its item.
        let (done_in, done) = bounded(window);
        for number in 0..workers {
            let worker = Worker::new(dataset.clone(), tokenizer.clone(), config.clone());
            let (jobs, done) = (jobs_out.clone(), done_in.clone());
            loader.spawn(format!("decode-{number}"), move || worker.run(&jobs, &done))?;
        }
        let visits = Visits::new(config.seed, dataset.len(), start);
        let queue = Queue::default();
        let assembler = Assembler { dataset, config, visits, window, jobs, done, health, stop, queue };
        loader.spawn("assemble".to_owned(), move || assembler.run(&recycled_out, &batches_in))?;
        Ok(loader)
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(thread::Builder::new().name(name).spawn(body).map_err(Error::Threads)?);
        Ok(())
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// [`Error::TooManyBroken`], [`Error::NoGoodSample`] and [`Error::Unreadable`], after the batches before the fault;
    /// then [`Error::Ended`].
    pub fn next_batch(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let batches = self.batches.as_ref().ok_or(Error::Ended)?;
        let Made { batch, skipped, warnings } = batches.recv().map_err(|_| Error::Ended)?;
        self.skipped = skipped;
        self.warnings.extend(warnings);
        let mut batch = batch?;
        batch.waited = start.elapsed();
        Ok(batch)
    }

    /// Gives a batch's buffers back, to be filled again.
    pub fn recycle(&self, batch: Batch) {
        // If enough are waiting already, this one is dropped.
        let _ = self.recycled.try_send(batch);
    }

    /// Broken samples skipped on the way to the batches that were taken, by kind, and samples lost with damaged archives.
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
        // The assembler cannot send any more and ends; with it the jobs end, and so do the workers.
        self.batches = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
