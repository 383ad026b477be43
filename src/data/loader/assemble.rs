//! The thread between the workers and the user: numbers the visits, restores their order, fills batches.

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
use crate::data::error::{Error, Result};

pub(super) struct Assembler {
    pub dataset: Arc<Dataset>,
    pub config: LoaderConfig,
    pub visits: Visits,
    /// How many visits may be under way at once.
    pub window: usize,
    pub jobs: Sender<Job>,
    pub done: Receiver<Done>,
    pub health: Health,
    pub stop: Arc<AtomicBool>,
    pub queue: Queue,
}

/// A batch, and the samples skipped on the way to it. Samples that were read ahead and never used are not counted.
pub(super) struct Made {
    pub batch: Result<Batch>,
    /// Since the loader was started.
    pub skipped: Skipped,
    /// Since the batch before.
    pub warnings: Vec<String>,
}

/// The visits under way, in order, each with what has come of it.
#[derive(Default)]
pub(super) struct Queue {
    visits: VecDeque<(Visit, Option<Outcome>)>,
    /// Ticket of the front.
    first: u64,
    /// Buffers that wait for a job.
    spare: Vec<Item>,
}

type Outcome = (Item, std::result::Result<(), Broken>);

impl Assembler {
    /// Makes batches until there is an error or nobody to take them.
    pub fn run(mut self, recycled: &Receiver<Batch>, batches: &Sender<Made>) {
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

    /// What has come of the next visit in order.
    fn next_outcome(&mut self) -> Result<(Visit, Outcome)> {
        let queue = &mut self.queue;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Ended);
            }
            while queue.visits.len() < self.window {
                let visit = self.visits.next();
                let ticket = queue.first + queue.visits.len() as u64;
                let item = queue.spare.pop().unwrap_or_default();
                self.jobs.send(Job { ticket, visit, item }).map_err(|_| Error::Ended)?;
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
            let Done { ticket, item, result } = self.done.recv().map_err(|_| Error::Ended)?;
            queue.visits[(ticket - queue.first) as usize].1 = Some((item, result));
        }
    }
}
