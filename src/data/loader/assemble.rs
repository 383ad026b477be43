//! The thread that numbers the visits, restores their order after the workers, and fills batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender};

use super::health::{Health, Skipped};
use super::order::{Visit, Visits};
use super::worker::{Done, Item, Job};
use super::{Batch, LoaderConfig};
use crate::data::broken::Broken;
use crate::data::dataset::Dataset;
use crate::data::error::{DataError, Result};

pub(super) struct Assembler {
    pub(super) dataset: Arc<Dataset>,
    pub(super) config: LoaderConfig,
    pub(super) visits: Visits,
    /// How many visits may be in flight.
    pub(super) window: usize,
    pub(super) jobs: Sender<Job>,
    pub(super) done: Receiver<Done>,
    pub(super) health: Health,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) queue: Queue,
}

/// A batch and the samples skipped before it. Samples that were prefetched and never used are not counted.
pub(super) struct Made {
    pub(super) batch: Result<Batch>,
    /// Since the loader started.
    pub(super) skipped: Skipped,
    /// Since the previous batch.
    pub(super) warnings: Vec<String>,
}

/// The visits in flight, in order, with their outcomes.
#[derive(Default)]
pub(super) struct Queue {
    visits: VecDeque<(Visit, Option<Outcome>)>,
    /// Ticket of the first.
    first: u64,
    /// Unused buffers.
    spare: Vec<Item>,
}

type Outcome = (Item, Result<(), Broken>);

impl Assembler {
    /// Makes batches until there is an error, or the loader is dropped.
    pub(super) fn run(mut self, recycled: &Receiver<Batch>, batches: &Sender<Made>) {
        loop {
            let batch = self.batch(recycled.try_recv().unwrap_or_default());
            let failed = batch.is_err();
            let made = Made { batch, skipped: self.health.skipped(), warnings: self.health.take_warnings() };
            if batches.send(made).is_err() || failed {
                return;
            }
        }
    }

    fn batch(&mut self, mut batch: Batch) -> Result<Batch> {
        batch.images.clear();
        batch.tokens.clear();
        batch.ids_keep.clear();
        batch.samples.clear();
        while batch.samples.len() < self.config.batch {
            let (visit, (item, result)) = self.next_outcome()?;
            self.health.visit(&self.dataset, visit.at.epoch, visit.sample, result.as_ref().err())?;
            if result.is_ok() {
                batch.images.extend_from_slice(&item.image);
                batch.tokens.extend_from_slice(&item.tokens);
                batch.ids_keep.extend_from_slice(&item.ids_keep);
                batch.samples.push(visit.sample);
                batch.next = visit.at.after(self.dataset.len());
            }
            self.queue.spare.push(item);
        }
        Ok(batch)
    }

    /// The outcome of the next visit in order.
    fn next_outcome(&mut self) -> Result<(Visit, Outcome)> {
        let queue = &mut self.queue;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DataError::Ended);
            }
            while queue.visits.len() < self.window {
                let visit = self.visits.next();
                let ticket = queue.first + queue.visits.len() as u64;
                let item = queue.spare.pop().unwrap_or_default();
                self.jobs.send(Job { ticket, visit, item }).map_err(|_| DataError::Ended)?;
                queue.visits.push_back((visit, None));
            }
            match queue.visits.pop_front() {
                Some((visit, Some(outcome))) => {
                    queue.first += 1;
                    return Ok((visit, outcome));
                }
                Some(waiting) => queue.visits.push_front(waiting),
                None => {}
            }
            let Done { ticket, item, result } = self.done.recv().map_err(|_| DataError::Ended)?;
            queue.visits[(ticket - queue.first) as usize].1 = Some((item, result));
        }
    }
}
