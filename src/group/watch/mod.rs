//! Heartbeats of ranks, and a watchdog that ends all of them if one is stuck.

mod heartbeat;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use self::heartbeat::{Heartbeat, Seen, Verdict, judge, message};
use super::{Group, GroupError, MAY_PASS, Phase, Pulse};

/// The folder of heartbeats within that of a run.
const FOLDER: &str = "ranks";

/// The first step, and ranks whose heartbeats cannot be read, get this many times the limit.
const FIRST_STEP_FACTOR: u32 = 3;

/// So many ranks check all heartbeats at each interval. Others do so once a minute, to spare the shared file system.
const FREQUENT_CHECKERS: usize = 4;

/// How long launchers get to relay what a rank has printed, which is lost if they end before.
pub const RELAYING: Duration = Duration::from_millis(300);

/// Writes heartbeats of this rank and watches the others until it is dropped.
///
/// If this rank has waited for others longer than a limit, and a rank that does not wait has made no progress for as
/// long, or has written no heartbeat, one error names it and all ranks end. A rank that is slow but makes progress is
/// waited for: an evaluation may take as long as it likes.
#[derive(Debug)]
pub struct Watch {
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    folder: PathBuf,
    rank: usize,
}

impl Watch {
    /// Starts on all ranks of a [`Watched`](super::Watched) group, with the `limit` of rank 0. `run`: the folder of the
    /// run, in which heartbeats are written. `None` for a process alone, and if a rank cannot write them.
    ///
    /// # Errors
    /// If the exchange with other ranks fails.
    pub fn start(group: &Arc<dyn Group>, run: &Path, limit: Duration) -> Result<Option<Self>, GroupError> {
        let Some(pulse) = group.pulse().filter(|_| group.size() > 1).cloned() else { return Ok(None) };
        let (folder, rank) = (run.join(FOLDER), group.rank());
        if group.is_root() {
            // Heartbeats of an earlier launch, which may have had more ranks.
            let _ = fs::remove_dir_all(&folder);
            let _ = fs::create_dir(&folder);
        }
        let limit = Duration::try_from_secs_f64(group.all(limit.as_secs_f64())?[0]).unwrap_or(limit);
        let written = Heartbeat::own(rank, pulse.now()).write(&folder);
        let failed = group.all(u32::from(written.is_err()))?;
        if let Some(rank) = failed.iter().position(|&failed| failed > 0) {
            if group.is_root() {
                warn!(
                    "rank {rank} cannot write to {}, so a rank that is stuck will not be noticed: the run's folder \
                     must be on a file system that all ranks share",
                    folder.display()
                );
            }
            return Ok(None);
        }
        let (stop, stopped) = channel();
        let watcher = Watcher { group: group.clone(), pulse, run: run.to_owned(), folder: folder.clone(), limit };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watcher.watch(&stopped));
        let thread = match thread {
            Ok(thread) => Some(thread),
            Err(why) => {
                warn!("rank {rank} has no watchdog: {why}");
                None
            }
        };
        Ok(Some(Self { stop: Some(stop), thread, folder, rank }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(Heartbeat::path(&self.folder, self.rank));
        // This only succeeds on the last rank, when the folder is empty.
        let _ = fs::remove_dir(&self.folder);
    }
}

struct Watcher {
    group: Arc<dyn Group>,
    pulse: Arc<Pulse>,
    run: PathBuf,
    folder: PathBuf,
    limit: Duration,
}

impl Watcher {
    /// Time between heartbeats.
    fn interval(&self) -> Duration {
        (self.limit / 4).min(Duration::from_secs(3))
    }

    /// Returns when the other end of `stopped` is dropped.
    fn watch(&self, stopped: &Receiver<()>) {
        let interval = self.interval();
        let tick = (self.limit / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let between_looks = match self.group.rank() < FREQUENT_CHECKERS {
            true => interval,
            false => interval.max(self.limit.min(Duration::from_secs(60))),
        };
        let (mut woke, mut awake_since, mut beaten, mut looked) =
            (Instant::now(), Instant::now(), Instant::now(), None);
        while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
            // All ranks may have been suspended for a while; that is not the fault of any.
            if woke.elapsed() > tick + (self.limit / 4).max(Duration::from_secs(1)) {
                awake_since = Instant::now();
            }
            woke = Instant::now();
            let doing = self.pulse.now();
            let waited = doing.quiet.min(awake_since.elapsed());
            let limit = if self.pulse.is_warm() { self.limit } else { self.limit * FIRST_STEP_FACTOR };
            let looks = matches!(doing.phase, Phase::Gathering | Phase::Step)
                && waited > limit
                && looked.is_none_or(|looked: Instant| looked.elapsed() >= between_looks);
            if looks || beaten.elapsed() >= interval {
                beaten = Instant::now();
                // If that fails, others can still be checked.
                let _ = Heartbeat::own(self.group.rank(), doing).write(&self.folder);
            }
            if looks {
                looked = Some(Instant::now());
                self.look(waited, limit);
            }
        }
    }

    /// Ends all ranks if one is stuck.
    fn look(&self, waited: Duration, limit: Duration) {
        let seen = Seen::read_all(&self.folder, self.group.size(), self.group.rank());
        let verdict = judge(&seen, limit);
        match verdict {
            Verdict::Wait => return,
            Verdict::Unknown(_) if waited <= limit * FIRST_STEP_FACTOR => return,
            _ => {}
        }
        if reporter(&verdict, &seen, limit) != Some(self.group.rank()) {
            // Another rank reports the problem and ends this one. If it does not, this one does.
            std::thread::sleep(Duration::from_secs(2));
            if self.pulse.now().quiet < waited {
                return;
            }
        }
        error!(
            "{}; all ranks end: continue from the newest checkpoint with flipk train --resume {}",
            message(&verdict, &seen, waited, limit),
            self.run.display()
        );
        end(&self.group)
    }
}

/// The rank that reports the problem: the first one that is alive and not stuck.
fn reporter(verdict: &Verdict, seen: &[Option<Seen>], limit: Duration) -> Option<usize> {
    let is_stuck = |rank: &usize| matches!(verdict, Verdict::Stuck(stuck) if stuck.contains(rank));
    let is_alive = |rank: &usize| seen[*rank].as_ref().is_some_and(|seen| seen.is_alive(limit));
    (0..seen.len()).find(|rank| is_alive(rank) && !is_stuck(rank))
}

/// Ends all processes, or at least this one, for which launchers end the others. The library may be in a call that
/// never returns.
fn end(group: &Arc<dyn Group>) -> ! {
    std::thread::sleep(RELAYING);
    let group = group.clone();
    let aborting = std::thread::Builder::new().spawn(move || {
        group.abort(MAY_PASS);
        exit()
    });
    if aborting.is_ok() {
        std::thread::sleep(Duration::from_secs(2));
    }
    exit()
}

fn exit() -> ! {
    // SAFETY: the process ends here. Exit handlers are skipped, because they may wait for the stuck call.
    unsafe { libc::_exit(MAY_PASS.into()) }
}
