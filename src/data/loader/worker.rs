//! One decoding thread: visits in, finished items out.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender};

use super::LoaderConfig;
use super::effort::Counters;
use super::order::Visit;
use super::prepare::{Item, Preparer};
use crate::data::broken::{Broken, Kind, confined};
use crate::data::sample::Tokenizer;

/// A visit; `ticket` numbers the jobs of a stream.
pub(super) struct Job {
    pub(super) stream: usize,
    pub(super) ticket: u64,
    pub(super) visit: Visit,
    pub(super) item: Item,
}

/// The outcome of a job. The item is meaningless if the sample is broken.
pub(super) struct Done {
    pub(super) stream: usize,
    pub(super) ticket: u64,
    pub(super) item: Item,
    pub(super) result: Result<(), Broken>,
}

pub(super) struct Worker {
    preparer: Preparer,
    counters: Arc<Counters>,
}

impl Worker {
    pub(super) fn new(tokenizer: Tokenizer, config: LoaderConfig, counters: Arc<Counters>) -> Self {
        Self { preparer: Preparer::new(Some(tokenizer), config), counters }
    }

    /// Works until either channel is closed.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, done: &Sender<Done>) {
        for Job { stream, ticket, visit, mut item } in jobs {
            let Self { preparer, counters } = &mut self;
            let prepare = || preparer.prepare(visit.held.view(), visit.epoch, visit.key, &mut item);
            let result = counters.decoding(|| confined(prepare));
            counters.add(&preparer.laps);
            if matches!(result, Err(Broken { kind: Kind::Panic, .. })) {
                preparer.reset();
            }
            if done.send(Done { stream, ticket, item, result }).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::unbounded;

    use super::*;
    use crate::data::dataset::Dataset;
    use crate::data::loader::StreamPosition;
    use crate::data::sample::{Augmentation, CaptionKeys};
    use crate::data::testing::{Archive, png};

    /// Aspect ratios out of order, which no loader lets through, panic at every sample that no crop fits.
    #[test]
    fn a_panic_breaks_one_sample_and_not_the_worker() {
        let mut archive = Archive::default();
        archive.add("1.png", &png(4, 4, 1)).add("1.txt", b"name");
        let dataset = Arc::new(Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap());
        let tokenizer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\n", "vocab.txt").unwrap();
        let (jobs, jobs_out) = unbounded();
        let (done_in, done) = unbounded();
        for ticket in 0..2 {
            let (next, held) = (StreamPosition::default(), dataset.held(0));
            let visit = Visit { sample: 0, held, epoch: 0, key: 0, next, passes: 0.0, news: None };
            jobs.send(Job { stream: 0, ticket, visit, item: Item::default() }).unwrap();
        }
        drop(jobs);
        let augmentation = Augmentation { area: (f32::NAN, f32::NAN), aspect: (2.0, 1.0), ..Augmentation::default() };
        let config = LoaderConfig { patch_size: 2, image_size: 4, augmentation, ..LoaderConfig::default() };
        Worker::new(tokenizer, config, Arc::default()).run(&jobs_out, &done_in);
        let results: Vec<_> = done.try_iter().map(|done| done.result.unwrap_err()).collect();
        assert!(results.len() == 2 && results.iter().all(|broken| broken.kind == Kind::Panic), "{results:?}");
        assert!(results[0].detail.contains("min > max"), "{}", results[0]);
    }
}
