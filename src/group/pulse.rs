//! What a rank is doing, and a group that notes when it waits for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Exchange, Group, GroupError, Place};

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Everything before the first batch.
    Start,
    /// Waiting for a batch.
    Data,
    /// Computing a step.
    Step,
    /// Writing a checkpoint.
    Saving,
    /// Evaluating on held-out data.
    Evaluating,
    /// In an exchange, or waiting for a device that may be in one.
    Gathering,
}

const PHASES: [Phase; 5] = [Phase::Start, Phase::Data, Phase::Step, Phase::Saving, Phase::Evaluating];

impl Phase {
    /// Its name in messages and heartbeats.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Data => "data",
            Self::Step => "step",
            Self::Saving => "saving",
            Self::Evaluating => "evaluating",
            Self::Gathering => "gathering",
        }
    }
}

/// What a rank is doing at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Doing {
    /// The phase.
    pub phase: Phase,
    /// The number of the step, from 1.
    pub step: u64,
    /// Time without progress: since a phase or an exchange began or ended, or a part of the work was done.
    pub quiet: Duration,
}

/// What this process is doing. Updates are a few stores, so that they can be frequent.
#[derive(Debug)]
pub struct Pulse {
    created: Instant,
    phase: AtomicU8,
    step: AtomicU64,
    /// Waits that have begun and not ended; one may be within another.
    waits: AtomicU32,
    /// Milliseconds from `created` to the last progress.
    moved: AtomicU64,
    /// Nanoseconds spent waiting.
    waited: AtomicU64,
    /// Batches that were asked for.
    batches: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            phase: AtomicU8::new(0),
            step: AtomicU64::new(0),
            waits: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// Begins a phase of step number `step`.
    pub fn enter(&self, phase: Phase, step: u64) {
        let index = PHASES.iter().position(|known| *known == phase).unwrap_or_default();
        self.phase.store(index as u8, Ordering::Relaxed);
        self.step.store(step, Ordering::Relaxed);
        self.batches.fetch_add(u64::from(phase == Phase::Data), Ordering::Relaxed);
        self.tick();
    }

    /// Notes progress.
    pub fn tick(&self) {
        self.moved.store(self.created.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Runs `call`, which waits for other ranks.
    pub fn waiting<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.tick();
        let done = call();
        if self.waits.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.waited.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        self.tick();
        done
    }

    /// Time that this process has spent waiting, as far as it is over.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// What this process is doing.
    pub fn now(&self) -> Doing {
        let phase = match self.waits.load(Ordering::Relaxed) > 0 {
            true => Phase::Gathering,
            false => PHASES.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or(Phase::Start),
        };
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        Doing { phase, step: self.step.load(Ordering::Relaxed), quiet: self.created.elapsed().saturating_sub(moved) }
    }

    /// Whether the first step of this process is done.
    pub(super) fn is_warm(&self) -> bool {
        self.batches.load(Ordering::Relaxed) > 1
    }
}

/// A group that keeps a [`Pulse`], and knows this rank's place and cores on its machine.
#[derive(Debug)]
pub struct Watched {
    group: Arc<dyn Group>,
    place: Place,
    cores: usize,
    pulse: Arc<Pulse>,
}

impl Watched {
    /// Notes the calls of `group`. `place` may say more exactly than the group which of its ranks are on this machine.
    pub fn new(group: Arc<dyn Group>, place: Place, cores: usize) -> Self {
        Self { group, place, cores, pulse: Arc::default() }
    }
}

impl Group for Watched {
    fn place(&self) -> Place {
        self.place
    }

    fn cores(&self) -> usize {
        self.cores
    }

    fn describe(&self) -> String {
        self.group.describe()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        self.pulse.waiting(|| self.group.all_gather(all, block))
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        self.pulse.waiting(|| self.group.gather(own, all, block, len))
    }

    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        let exchange = self.pulse.waiting(|| self.group.start_all_to_all(parts, to, from))?;
        Ok(Box::new(WatchedExchange { exchange, pulse: self.pulse.clone() }))
    }

    fn start_all_gather(&self, own: Vec<u32>, block: usize, len: usize) -> Result<Box<dyn Exchange>, GroupError> {
        let exchange = self.pulse.waiting(|| self.group.start_all_gather(own, block, len))?;
        Ok(Box::new(WatchedExchange { exchange, pulse: self.pulse.clone() }))
    }

    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        self.pulse.waiting(|| self.group.broadcast(words))
    }

    fn abort(&self, code: u8) {
        self.group.abort(code);
    }

    fn has_ended(&self) -> bool {
        self.group.has_ended()
    }

    fn pulse(&self) -> Option<&Arc<Pulse>> {
        Some(&self.pulse)
    }
}

/// An exchange of a [`Watched`] group.
struct WatchedExchange {
    exchange: Box<dyn Exchange>,
    pulse: Arc<Pulse>,
}

impl Exchange for WatchedExchange {
    fn poll(&mut self) -> Result<bool, GroupError> {
        self.exchange.poll()
    }

    fn wait(self: Box<Self>) -> Result<Vec<u32>, GroupError> {
        let Self { exchange, pulse } = *self;
        pulse.waiting(|| exchange.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Threads;

    #[test]
    fn a_rank_waits_while_another_is_late() {
        let watched = |rank: Threads| Arc::new(Watched::new(Arc::new(rank), Place::on_one_machine(0, 2), 1));
        let mut ranks = Threads::group(2).into_iter().map(watched);
        let (first, second) = (ranks.next().unwrap(), ranks.next().unwrap());
        let pulse = first.pulse.clone();
        pulse.enter(Phase::Data, 7);
        assert_eq!((pulse.now().phase, pulse.now().step, pulse.is_warm()), (Phase::Data, 7, false));
        let waiting = std::thread::spawn(move || {
            let group: &dyn Group = &*first;
            group.all(1u32).unwrap();
            first
        });
        while pulse.now().phase != Phase::Gathering {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(pulse.now().quiet >= Duration::from_millis(15));
        let group: &dyn Group = &*second;
        group.all(2u32).unwrap();
        let first = waiting.join().unwrap();
        assert_eq!(pulse.now().phase, Phase::Data);
        assert!(pulse.waited() >= Duration::from_millis(20) && second.pulse.waited() > Duration::ZERO);
        first.pulse.enter(Phase::Data, 8);
        assert!(pulse.is_warm());
    }
}
