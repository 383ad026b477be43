//! What a run waits for when it waits for data.

use std::time::Duration;

use super::window::Window;
use crate::data::image::{Decoding, JpegDecoder};
use crate::data::{Effort, Loader};

/// Share of the time that a run may wait for data without a warning.
const WAIT: f64 = 0.1;
/// Share of threads or cores above which all count as busy.
const ALL: f64 = 0.85;

/// The shortest stretch that a warning is about.
const LONG: Duration = Duration::from_secs(20);

/// Watches a run.
#[derive(Default)]
pub(super) struct Watch {
    /// Cores of this process.
    cores: usize,
    /// Whether JPEGs could be scaled while they are decoded, and are not.
    could_scale: bool,
    /// Up to the last window, and since when a warning was considered.
    before: Effort,
    stretch: Effort,
    time: Duration,
    waited: Duration,
    computed: Duration,
    warned: bool,
}

impl Watch {
    /// Watches a run of a process that has `cores` cores.
    pub(super) fn new(cores: usize, decoding: Decoding) -> Self {
        let could_scale = decoding.jpeg == JpegDecoder::Turbo && decoding.scale_to.is_none();
        Self { cores, could_scale, ..Self::default() }
    }

    /// Takes note of the steps since the last call. Returns the number of images decoded meanwhile, and, once, a
    /// warning if the run waits for data `from` there.
    pub(super) fn end(&mut self, window: &Window, loader: &Loader, from: &str) -> (u64, Option<String>) {
        let effort = loader.effort();
        let images = effort.since(&std::mem::replace(&mut self.before, effort)).images;
        self.time += window.time;
        self.waited += window.waited;
        self.computed += window.computed;
        if self.time < LONG || self.warned {
            return (images, None);
        }
        let warning = warning(&Stretch {
            time: std::mem::take(&mut self.time),
            waited: std::mem::take(&mut self.waited),
            effort: effort.since(&std::mem::replace(&mut self.stretch, effort)),
            computed: std::mem::take(&mut self.computed),
            threads: loader.threads(),
            cores: self.cores,
            could_scale: self.could_scale,
            from,
        });
        self.warned = warning.is_some();
        (images, warning)
    }
}

/// A stretch of training.
struct Stretch<'a> {
    time: Duration,
    /// The part of `time` that was spent waiting for data.
    waited: Duration,
    effort: Effort,
    /// Time that all threads of the process computed.
    computed: Duration,
    /// Decoding threads.
    threads: usize,
    cores: usize,
    could_scale: bool,
    /// A source of the data.
    from: &'a str,
}

/// A warning that names the bound, if the run waits for data.
fn warning(stretch: &Stretch) -> Option<String> {
    let Stretch { time, waited, effort, computed, threads, cores, could_scale, from } = stretch;
    let seconds = time.as_secs_f64();
    let share = |part: Duration| part.as_secs_f64() / seconds;
    let wait = share(*waited);
    if wait <= WAIT {
        return None;
    }
    let rate = effort.images as f64 / seconds;
    let (busy_cores, busy_threads, opening) = (share(*computed), share(effort.busy), share(effort.opening));
    let busy = busy_threads / *threads as f64;
    let why = if opening > wait / 2.0 || opening + busy > ALL && opening > busy {
        let speed = match effort.opened {
            0 => String::new(),
            bytes => format!(", at {:.0} MB/s", bytes as f64 / seconds / 1e6),
        };
        format!(
            "read-bound: for {:.0} % of the time it waits for the next shards of {from} to be read{speed}; a faster disk \
             or network helps, and so do smaller shards (`flipk data pack`)",
            100.0 * opening
        )
    } else if busy_cores > ALL * *cores as f64 {
        let scaling = match could_scale {
            true => {
                "; in a new run, --jpeg-scaling speeds up JPEGs that are much larger than the model's images, unless all \
                 decoded images fit in memory"
            }
            false => "",
        };
        format!(
            "decode-bound: {busy_cores:.1} of {cores} cores are busy, with {rate:.0} images/s; more cores help, or `flipk \
             data pack`, which rewrites shards so that they decode several times faster{scaling}"
        )
    } else if opening + busy < ALL {
        return None;
    } else if share(effort.computed) < busy_threads / 2.0 {
        format!(
            "read-bound: {:.0} % of the decoding threads' time passes while they wait for {from}, or for a core, with \
             {rate:.0} images/s; a faster disk helps, or --order shards, which reads each shard from front to back",
            100.0 * (1.0 - share(effort.computed) / busy_threads)
        )
    } else {
        format!(
            "decode-bound: all {threads} decoding threads are busy, with {rate:.0} images/s, but only {busy_cores:.1} of \
             {cores} cores; use more --loader-threads"
        )
    };
    Some(format!("warning: {:.0} % of the time is spent waiting for data; {why}", 100.0 * wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds with these: waited, busy threads, computing threads, opening, busy cores.
    fn said(times: [u64; 5]) -> String {
        said_if(true, times)
    }

    /// As [`said`], where JPEGs could be scaled or not.
    fn said_if(could_scale: bool, [waited, busy, decoding, opening, cores]: [u64; 5]) -> String {
        let [waited, busy, decoded, opening, computed] =
            [waited, 10 * busy, 10 * decoding, opening, 10 * cores].map(Duration::from_secs);
        let effort =
            Effort { images: 5000, busy, computed: decoded, opening, opened: 3_000_000_000, ..Effort::default() };
        let time = Duration::from_secs(10);
        let from = "data/*.tar";
        warning(&Stretch { time, waited, effort, computed, threads: 8, cores: 16, could_scale, from })
            .unwrap_or_default()
    }

    #[test]
    fn the_bound_is_named() {
        assert_eq!(said([1, 8, 8, 0, 16]), "");
        let text = said([4, 8, 8, 0, 15]);
        assert!(
            text.contains("40 % of the time") && text.contains("decode-bound: 15.0 of 16 cores are busy"),
            "{text}"
        );
        assert!(
            text.contains("--jpeg-scaling") && !said_if(false, [4, 8, 8, 0, 15]).contains("--jpeg-scaling"),
            "{text}"
        );
        let text = said([4, 8, 7, 0, 8]);
        assert!(text.contains("all 8 decoding threads are busy, with 500 images/s, but only 8.0 of 16"), "{text}");
        let text = said([4, 8, 2, 0, 3]);
        assert!(
            text.contains("read-bound: 75 % of the decoding threads' time") && text.contains("data/*.tar"),
            "{text}"
        );
        let text = said([6, 2, 2, 5, 3]);
        assert!(text.contains("read-bound: for 50 % of the time") && text.contains("at 300 MB/s"), "{text}");
        // Neither: the queue between them is too short, perhaps.
        assert_eq!(said([4, 4, 4, 0, 8]), "");
    }
}
