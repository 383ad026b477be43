//! How much the loader's threads do, from which a run finds out what it waits for.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cpu_time;

/// What a loader has done since it started, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Samples that were decoded, broken ones included.
    pub images: u64,
    /// Time that decoding threads spent on samples, summed over the threads.
    pub busy: Duration,
    /// The part of `busy` in which they computed; in the rest they waited, for files or for a core.
    pub computed: Duration,
    /// Time in which nothing could be decoded, since the next shards were not open yet.
    pub opening: Duration,
    /// Bytes of the shards that were opened, unpacked; 0 for tables and folders, and in the global order.
    pub opened: u64,
    /// What `computed` is spent on, and copying; only with [`LoaderConfig::time_stages`](super::LoaderConfig).
    pub stages: Stages,
}

/// For how long the loader's threads computed, by what they did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Reading captions and encoded images from shards.
    pub reading: Duration,
    /// Tokenising captions.
    pub tokenizing: Duration,
    /// Decoding images, and checking that they are whole.
    pub decoding: Duration,
    /// Drawing masks, cropping and resizing.
    pub resizing: Duration,
    /// Copying tokens and `ids_keep` into batches, on the thread that puts samples in order; also the pixels of samples
    /// that were in flight behind a broken one.
    pub copying: Duration,
}

/// Number of [`Stages`].
const STAGES: usize = 5;

/// One of [`Stages`], in their order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Reading,
    Tokenizing,
    Decoding,
    Resizing,
    Copying,
}

impl Stages {
    fn of([reading, tokenizing, decoding, resizing, copying]: [Duration; STAGES]) -> Self {
        Self { reading, tokenizing, decoding, resizing, copying }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            reading: self.reading - before.reading,
            tokenizing: self.tokenizing - before.tokenizing,
            decoding: self.decoding - before.decoding,
            resizing: self.resizing - before.resizing,
            copying: self.copying - before.copying,
        }
    }
}

/// Times the stages of one thread's work, if that is asked for.
#[derive(Debug)]
pub(super) struct Laps {
    is_on: bool,
    last: Cell<Duration>,
    sums: Cell<[Duration; STAGES]>,
}

impl Laps {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, last: Cell::default(), sums: Cell::default() }
    }

    /// Begins the first stage.
    pub(super) fn begin(&self) {
        if self.is_on {
            self.last.set(cpu_time::of_thread());
        }
    }

    /// Ends a stage, and begins the next.
    pub(super) fn end(&self, stage: Stage) {
        if self.is_on {
            let now = cpu_time::of_thread();
            let mut sums = self.sums.get();
            sums[stage as usize] += now.saturating_sub(self.last.replace(now));
            self.sums.set(sums);
        }
    }
}

impl Effort {
    /// What was done since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            images: self.images - before.images,
            busy: self.busy - before.busy,
            computed: self.computed - before.computed,
            opening: self.opening - before.opening,
            opened: self.opened - before.opened,
            stages: self.stages.since(&before.stages),
        }
    }
}

/// Counts for an [`Effort`]; times in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Counters {
    images: AtomicU64,
    busy: AtomicU64,
    computed: AtomicU64,
    opening: AtomicU64,
    opened: AtomicU64,
    stages: [AtomicU64; STAGES],
}

impl Counters {
    pub(super) fn effort(&self) -> Effort {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        Effort {
            images: self.images.load(Ordering::Relaxed),
            busy: time(&self.busy),
            computed: time(&self.computed),
            opening: time(&self.opening),
            opened: self.opened.load(Ordering::Relaxed),
            stages: Stages::of(self.stages.each_ref().map(time)),
        }
    }

    /// Runs `work`, which decodes a sample.
    pub(super) fn decoding<T>(&self, work: impl FnOnce() -> T) -> T {
        let (start, computed) = (Instant::now(), cpu_time::of_thread());
        let result = work();
        add(&self.busy, start.elapsed());
        add(&self.computed, cpu_time::of_thread().saturating_sub(computed));
        self.images.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Adds what `laps` has timed, which begins again at 0.
    pub(super) fn add(&self, laps: &Laps) {
        if laps.is_on {
            self.stages.iter().zip(laps.sums.take()).for_each(|(counter, time)| add(counter, time));
        }
    }

    /// Runs `wait`, which waits for shards.
    pub(super) fn opening<T>(&self, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = wait();
        add(&self.opening, start.elapsed());
        result
    }

    /// Counts shards of `bytes` bytes.
    pub(super) fn opened(&self, bytes: u64) {
        self.opened.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_computing() {
        let counters = Counters::default();
        let before = counters.effort();
        counters.decoding(|| std::thread::sleep(Duration::from_millis(30)));
        counters.opening(|| std::thread::sleep(Duration::from_millis(20)));
        counters.opened(7);
        let effort = counters.effort().since(&before);
        assert!(effort.busy >= Duration::from_millis(30) && effort.opening >= Duration::from_millis(20), "{effort:?}");
        assert!(effort.computed < effort.busy / 2, "{effort:?}");
        assert_eq!((effort.images, effort.opened), (1, 7));
        let end = Instant::now() + Duration::from_millis(20);
        counters.decoding(|| while Instant::now() < end {});
        assert!(counters.effort().computed > effort.computed);
    }
}
