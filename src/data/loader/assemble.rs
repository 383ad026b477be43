//! The thread that numbers the visits, restores their order after the workers, and fills batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use crossbeam::channel::{Receiver, Sender};

use super::Batch;
use super::effort::{Counters, Laps, Stage};
use super::health::Health;
use super::order::{Position, Visit, Visits};
use super::prepare::Item;
use super::rows::Rows;
use super::tally::Tallies;
use super::worker::{Done, Job};
use crate::data::broken::Broken;
use crate::data::error::{DataError, Result};

pub(super) struct Assembler {
    pub(super) streams: Vec<Stream>,
    /// Number of the first of them, and rows of each in a batch.
    pub(super) first: usize,
    pub(super) each: usize,
    /// After the last good sample of each stream.
    pub(super) position: Position,
    /// How many visits may be in flight.
    pub(super) window: usize,
    /// Visits in flight, and the row of the next one to start, counted through all batches.
    pub(super) in_flight: usize,
    pub(super) next_row: u64,
    pub(super) jobs: Sender<Job>,
    pub(super) done: Receiver<Done>,
    pub(super) health: Health,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) laps: Laps,
    pub(super) counters: Arc<Counters>,
    pub(super) rows: Rows,
    /// Unused ones.
    pub(super) spare: Vec<Item>,
}

/// A stream of visits, and those in flight, in order, with their outcomes.
pub(super) struct Stream {
    visits: Visits,
    queue: VecDeque<(Started, Option<Outcome>)>,
    /// Rows that broken samples left, in order. The samples after them move up, each into the first of these rows.
    free: VecDeque<BytesMut>,
    /// Ticket of the first in the queue.
    first: u64,
    /// Why there are no more visits after those in the queue.
    failed: Option<DataError>,
    /// Passes over its part of the data.
    passes: f64,
}

impl Stream {
    pub(super) fn new(visits: Visits) -> Self {
        Self { visits, queue: VecDeque::new(), free: VecDeque::new(), first: 0, failed: None, passes: 0.0 }
    }

    /// The next row of the stream, with the pixels of a good sample.
    fn row(&mut self, item: &mut Item, is_replacement: bool) -> BytesMut {
        let Some(mut row) = self.free.pop_front() else { return std::mem::take(&mut item.image) };
        row.copy_from_slice(&item.image);
        if !is_replacement {
            self.free.push_back(std::mem::take(&mut item.image));
        }
        row
    }
}

/// A visit in flight.
struct Started {
    visit: Visit,
    /// Whether it was started because another sample was broken, and so has no row of its own.
    is_replacement: bool,
}

/// A batch and what was found in it. Samples that were prefetched and never used are not counted.
pub(super) struct Made {
    pub(super) batch: Result<Batch>,
    pub(super) tallies: Tallies,
    /// Since the previous batch.
    pub(super) warnings: Vec<String>,
    /// Passes over the data.
    pub(super) passes: f64,
}

type Outcome = (Item, Result<(), Broken>);

impl Assembler {
    /// Makes batches until there is an error, or the loader is dropped.
    pub(super) fn run(mut self, recycled: &Receiver<Batch>, batches: &Sender<Made>) {
        loop {
            let batch = self.batch(recycled.try_recv().unwrap_or_default());
            let failed = batch.is_err();
            let passes = self.streams.iter().map(|stream| stream.passes).sum::<f64>() / self.streams.len() as f64;
            let (tallies, warnings) = (self.health.take_tallies(), self.health.take_warnings());
            let made = Made { batch, tallies, warnings, passes };
            if batches.send(made).is_err() || failed {
                return;
            }
        }
    }

    fn batch(&mut self, mut batch: Batch) -> Result<Batch> {
        self.rows.recycle(std::mem::take(&mut batch.images));
        batch.tokens.clear();
        batch.ids_keep.clear();
        batch.samples.clear();
        while batch.samples.len() < self.each * self.streams.len() {
            let number = self.stream_of(batch.samples.len() as u64);
            let (Started { visit, is_replacement }, (mut item, result)) = self.next_outcome(number)?;
            for news in visit.news.iter().flat_map(|news| news.iter()) {
                self.health.learn(number, news);
            }
            self.health.visit(number, visit.epoch, visit.sample, visit.held.view(), result.as_ref().err())?;
            match result {
                Ok(()) => {
                    self.laps.begin();
                    let stream = &mut self.streams[number];
                    let row = stream.row(&mut item, is_replacement);
                    batch.push(visit.sample, row, &mut item);
                    self.laps.end(Stage::Copying);
                    stream.passes = visit.passes;
                    self.position.streams[self.first + number] = visit.next;
                }
                Err(_) => {
                    if !is_replacement {
                        self.streams[number].free.push_back(std::mem::take(&mut item.image));
                    }
                    self.start(number, None)?;
                }
            }
            self.spare.push(item);
        }
        self.counters.add(&self.laps);
        batch.origins.truncate(batch.samples.len());
        batch.next.streams.clone_from(&self.position.streams);
        Ok(batch)
    }

    /// The stream that a row comes from, counted through all batches.
    fn stream_of(&self, row: u64) -> usize {
        (row / self.each as u64 % self.streams.len() as u64) as usize
    }

    /// Starts the next visit of a stream, which fills `row`, or replaces a broken sample.
    fn start(&mut self, number: usize, row: Option<BytesMut>) -> Result<()> {
        let stream = &mut self.streams[number];
        if stream.failed.is_some() {
            return Ok(());
        }
        match stream.visits.next() {
            Ok(visit) => {
                let ticket = stream.first + stream.queue.len() as u64;
                let mut item = self.spare.pop().unwrap_or_default();
                let is_replacement = row.is_none();
                if let Some(row) = row {
                    item.image = row;
                }
                let job = Job { stream: number, ticket, visit: visit.clone(), item };
                stream.queue.push_back((Started { visit, is_replacement }, None));
                self.in_flight += 1;
                self.jobs.send(job).map_err(|_| DataError::Ended)
            }
            Err(error) => {
                stream.failed = Some(error);
                Ok(())
            }
        }
    }

    /// The outcome of the next visit of a stream, in order.
    fn next_outcome(&mut self, number: usize) -> Result<(Started, Outcome)> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DataError::Ended);
            }
            // In the order in which the rows are filled. Once a stream has failed, no row is filled beyond its queue.
            while self.in_flight < self.window && self.streams.iter().all(|stream| stream.failed.is_none()) {
                let row = self.rows.next();
                self.start(self.stream_of(self.next_row), Some(row))?;
                self.next_row += 1;
            }
            let stream = &mut self.streams[number];
            match stream.queue.pop_front() {
                Some((started, Some(outcome))) => {
                    stream.first += 1;
                    self.in_flight -= 1;
                    return Ok((started, outcome));
                }
                Some(waiting) => stream.queue.push_front(waiting),
                None => return Err(stream.failed.take().unwrap_or(DataError::Ended)),
            }
            let Done { stream, ticket, item, result } = self.done.recv().map_err(|_| DataError::Ended)?;
            let stream = &mut self.streams[stream];
            stream.queue[(ticket - stream.first) as usize].1 = Some((item, result));
        }
    }
}
