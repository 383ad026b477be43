//! The file that says what a rank is doing, and what a watchdog concludes from all of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::group::machine::host;
use crate::group::{Doing, Phase};

/// The content of `RUN/ranks/NNNN.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Heartbeat {
    pub(super) rank: usize,
    pub(super) host: String,
    pub(super) pid: u32,
    /// The number of the step, from 1.
    pub(super) step: u64,
    pub(super) phase: Phase,
    /// Seconds without progress.
    pub(super) seconds: f64,
    /// When it was written, in seconds since 1970.
    time: f64,
}

impl Heartbeat {
    /// The rank `rank`, which is this process.
    pub(super) fn own(rank: usize, doing: Doing) -> Self {
        let Doing { phase, step, quiet } = doing;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { rank, host: host(), pid: std::process::id(), step, phase, seconds: quiet.as_secs_f64(), time }
    }

    pub(super) fn path(folder: &Path, rank: usize) -> PathBuf {
        folder.join(format!("{rank:04}.json"))
    }

    /// Replaces the rank's file in `folder`.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = Self::path(folder, self.rank);
        let partial = path.with_extension("json.partial");
        fs::write(&partial, serde_json::to_string(self)? + "\n")?;
        fs::rename(&partial, &path)
    }
}

/// A heartbeat, and how long ago it was written.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) beat: Heartbeat,
    pub(super) age: Duration,
}

impl Seen {
    /// The heartbeats of `size` ranks; `None` for those that cannot be read. Ages are relative to the file of rank
    /// `own`, which has just been written: so they hold even if the clocks of file server and machine differ.
    pub(super) fn read_all(folder: &Path, size: usize, own: usize) -> Vec<Option<Self>> {
        let written = |rank| fs::metadata(Heartbeat::path(folder, rank))?.modified();
        let now = written(own);
        let read = |rank| {
            let text = fs::read_to_string(Heartbeat::path(folder, rank)).ok()?;
            let beat = serde_json::from_str(&text).ok()?;
            let age = now.as_ref().ok()?.duration_since(written(rank).ok()?).unwrap_or_default();
            Some(Self { beat, age })
        };
        (0..size).map(read).collect()
    }

    /// Time without progress, as of now.
    fn quiet(&self) -> Duration {
        Duration::try_from_secs_f64(self.beat.seconds).unwrap_or_default() + self.age
    }

    /// Whether the process has written a heartbeat within the limit.
    pub(super) fn is_alive(&self, limit: Duration) -> bool {
        self.age <= limit
    }

    /// Whether the rank waits for others. In a step, the queue of a GPU that waits for other GPUs may be full.
    fn waits(&self, limit: Duration) -> bool {
        matches!(self.beat.phase, Phase::Gathering | Phase::Step) && self.is_alive(limit)
    }
}

/// What a rank that has waited longer than the limit concludes from all heartbeats.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Some rank is slow, but makes progress.
    Wait,
    /// These make no progress, and others wait for them.
    Stuck(Vec<usize>),
    /// All wait for each other.
    AllWait,
    /// These have no heartbeat that can be read.
    Unknown(Vec<usize>),
}

pub(super) fn judge(seen: &[Option<Seen>], limit: Duration) -> Verdict {
    let ranks = |wanted: &dyn Fn(Option<&Seen>) -> bool| -> Vec<usize> {
        (0..seen.len()).filter(|&rank| wanted(seen[rank].as_ref())).collect()
    };
    let stuck = ranks(&|seen| seen.is_some_and(|seen| seen.quiet() > limit && !seen.waits(limit)));
    let unknown = ranks(&|seen| seen.is_none());
    let computing = ranks(&|seen| seen.is_some_and(|seen| seen.beat.phase == Phase::Step));
    if !stuck.is_empty() {
        Verdict::Stuck(stuck)
    } else if !unknown.is_empty() {
        Verdict::Unknown(unknown)
    } else if seen.iter().flatten().any(|seen| seen.quiet() <= limit) {
        Verdict::Wait
    } else if (1..seen.len()).contains(&computing.len()) {
        Verdict::Stuck(computing)
    } else {
        Verdict::AllWait
    }
}

/// What a user reads. `waited`: how long this rank has had no answer.
pub(super) fn message(verdict: &Verdict, seen: &[Option<Seen>], waited: Duration, limit: Duration) -> String {
    let waited = waited.as_secs();
    let problem = match verdict {
        Verdict::Stuck(stuck) => {
            let named: Vec<String> =
                stuck.iter().filter_map(|&rank| Some(describe(seen[rank].as_ref()?, limit))).collect();
            format!("{}; {}", shortened(&named), others(seen, stuck, limit))
        }
        Verdict::Unknown(unknown) => {
            let named: Vec<String> = unknown.iter().map(|rank| format!("rank {rank}")).collect();
            format!("{} left no heartbeat that can be read", shortened(&named))
        }
        Verdict::AllWait | Verdict::Wait => {
            format!("{}; the network between them may be down", others(seen, &[], limit))
        }
    };
    format!("no answer for {waited} s: {problem}")
}

/// The first few names.
fn shortened(named: &[String]) -> String {
    const MAX_NAMED: usize = 4;
    match named.len() {
        0..=MAX_NAMED => named.join(", "),
        len => format!("{} and {} more ranks", named[..MAX_NAMED].join(", "), len - MAX_NAMED),
    }
}

fn describe(seen: &Seen, limit: Duration) -> String {
    let Seen { beat: Heartbeat { rank, host, pid, step, phase, .. }, age } = seen;
    let (phase, seconds) = (phase.name(), seen.quiet().as_secs());
    match *age > limit {
        true => format!(
            "rank {rank} ({host}, process {pid}) has shown no sign of life for {} s; it was last seen in the {phase} \
             phase of step {step}",
            age.as_secs()
        ),
        false => format!(
            "rank {rank} ({host}, process {pid}) has been in the {phase} phase of step {step} for {seconds} s without \
             progress"
        ),
    }
}

/// Who waits, and where.
fn others(seen: &[Option<Seen>], stuck: &[usize], limit: Duration) -> String {
    let rest: Vec<&Seen> = seen
        .iter()
        .enumerate()
        .filter(|(rank, _)| !stuck.contains(rank))
        .filter_map(|(_, seen)| seen.as_ref())
        .collect();
    let waiting: Vec<&Heartbeat> = rest.iter().filter(|seen| seen.waits(limit)).map(|seen| &seen.beat).collect();
    let steps = || waiting.iter().map(|beat| beat.step);
    let steps = match (steps().min(), steps().max()) {
        (Some(first), Some(last)) if first < last => format!("in steps {first} to {last}"),
        (Some(step), _) => format!("in step {step}"),
        (None, _) => return "no rank waits".to_owned(),
    };
    match (&waiting[..], waiting.len() == rest.len()) {
        ([one], true) => format!("rank {} waits {steps}", one.rank),
        (_, true) if stuck.is_empty() => format!("all ranks wait for each other {steps}"),
        (_, true) => format!("all others wait {steps}"),
        (waiting, false) => format!("{} of {} others wait {steps}", waiting.len(), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    fn seen(rank: usize, phase: Phase, seconds: u64, age: u64) -> Option<Seen> {
        let step = if phase == Phase::Gathering { 1204 } else { 1203 };
        let doing = Doing { phase, step, quiet: Duration::from_secs(seconds) };
        let beat = Heartbeat { host: "node03".to_owned(), pid: 4711, ..Heartbeat::own(rank, doing) };
        Some(Seen { beat, age: Duration::from_secs(age) })
    }

    /// What is concluded if rank 2 of three is like this, and the others have waited for 601 s.
    fn concluded(third: Option<Seen>) -> (Verdict, String) {
        let seen = [seen(0, Phase::Gathering, 600, 1), seen(1, Phase::Gathering, 602, 0), third];
        let verdict = judge(&seen, LIMIT);
        let message = message(&verdict, &seen, Duration::from_secs(601), LIMIT);
        (verdict, message)
    }

    #[test]
    fn a_rank_that_does_not_go_on_is_named() {
        let (verdict, message) = concluded(seen(2, Phase::Data, 610, 2));
        assert_eq!(verdict, Verdict::Stuck(vec![2]));
        assert_eq!(
            message,
            "no answer for 601 s: rank 2 (node03, process 4711) has been in the data phase of step 1203 for 612 s \
             without progress; all others wait in step 1204"
        );
    }

    #[test]
    fn a_rank_that_computes_is_named_if_others_wait() {
        let (verdict, message) = concluded(seen(2, Phase::Step, 610, 2));
        assert_eq!(verdict, Verdict::Stuck(vec![2]));
        assert!(message.contains("has been in the step phase of step 1203 for 612 s"), "{message}");
        // GPUs that wait for one another's data: the one in another phase is at fault, or none can be named.
        let steps = |third| [seen(0, Phase::Step, 601, 1), seen(1, Phase::Step, 602, 0), third];
        assert_eq!(judge(&steps(seen(2, Phase::Data, 603, 0)), LIMIT), Verdict::Stuck(vec![2]));
        assert_eq!(judge(&steps(seen(2, Phase::Step, 603, 0)), LIMIT), Verdict::AllWait);
    }

    #[test]
    fn a_stopped_process_is_named_whatever_it_did() {
        for phase in [Phase::Step, Phase::Gathering] {
            let (verdict, message) = concluded(seen(2, phase, 1, 605));
            assert_eq!(verdict, Verdict::Stuck(vec![2]));
            assert!(message.contains("rank 2 (node03, process 4711) has shown no sign of life for 605 s"), "{message}");
            assert!(message.contains(&format!("it was last seen in the {} phase", phase.name())), "{message}");
        }
    }

    #[test]
    fn a_rank_that_goes_on_is_awaited() {
        for phase in [Phase::Evaluating, Phase::Data, Phase::Saving, Phase::Gathering, Phase::Step] {
            assert_eq!(concluded(seen(2, phase, 590, 5)).0, Verdict::Wait, "{phase:?}");
        }
    }

    #[test]
    fn without_a_culprit_the_network_is_suspected() {
        let (verdict, message) = concluded(seen(2, Phase::Gathering, 650, 0));
        assert_eq!(verdict, Verdict::AllWait);
        assert!(message.contains("all ranks wait for each other in step 1204"), "{message}");
        let (verdict, message) = concluded(None);
        assert_eq!(verdict, Verdict::Unknown(vec![2]));
        assert!(message.contains("rank 2 left no heartbeat"), "{message}");
    }

    #[test]
    fn many_culprits_are_counted() {
        let all: Vec<_> = (0..9).map(|rank| seen(rank, Phase::Data, 700, 0)).collect();
        let verdict = judge(&all, LIMIT);
        let message = message(&verdict, &all, LIMIT, LIMIT);
        assert!(message.contains("rank 3 (") && message.contains("and 5 more ranks") && !message.contains("rank 4 ("));
    }

    #[test]
    fn heartbeats_are_read_back_with_their_age() {
        let folder = tempfile::tempdir().unwrap();
        let doing = Doing { phase: Phase::Saving, step: 9, quiet: Duration::from_secs(3) };
        let beats = [0, 2].map(|rank| Heartbeat::own(rank, doing));
        for beat in &beats {
            beat.write(folder.path()).unwrap();
        }
        let file = fs::File::options().write(true).open(Heartbeat::path(folder.path(), 2)).unwrap();
        let own = fs::metadata(Heartbeat::path(folder.path(), 0)).unwrap().modified().unwrap();
        file.set_modified(own - Duration::from_secs(100)).unwrap();
        let seen = Seen::read_all(folder.path(), 3, 0);
        let found = |rank: usize| seen[rank].as_ref().map(|seen| (seen.beat.clone(), seen.age));
        assert_eq!(found(0), Some((beats[0].clone(), Duration::ZERO)));
        assert_eq!(found(1), None);
        assert_eq!(found(2), Some((beats[1].clone(), Duration::from_secs(100))));
    }
}
