//! Ranks that are stuck, killed, or told to stop.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::harness::{FLIPK, Ran, assert_same, checkpoint, ended, flipk, json, number_in, resume, wait_for};
use crate::kills::newest;
use crate::ranks::{args, data, mpi, process_of, start, train_60_steps, two_runs, with_mpi};
use crate::shards::{shard, vocab};

/// Far more than the ranks take to end, and far less than for ever.
const SOON: Duration = Duration::from_secs(60);

pub fn signal(process: i32, signal: i32) {
    // SAFETY: a signal to a child, to a child of a child, or to the process group of a child.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0, "process {process} is gone");
}

/// How `child` ends, which must not take long.
pub fn ended_soon(child: Child) -> Ran {
    let begun = Instant::now();
    let ran = ended(child);
    assert!(begun.elapsed() < SOON, "it took {:?} to end: {}", begun.elapsed(), ran.stderr);
    ran
}

/// The line about a rank that is stuck, of which there must be one.
pub fn complaint(ran: &Ran) -> &str {
    assert!(!matches!(ran.code, Some(0)), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("no answer for").count(), 1, "{}", ran.stderr);
    ran.stderr.lines().find(|line| line.contains("no answer for")).unwrap_or_default()
}

/// Waits until none of these processes is there any more. Orphans may be left as zombies.
pub fn assert_gone(processes: &[i32]) {
    let begun = Instant::now();
    let is_running = |process: &i32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|state| !state.is_empty() && !state.starts_with(" Z"))
    };
    while processes.iter().any(is_running) {
        assert!(begun.elapsed() < SOON, "some of {processes:?} are still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stopped_rank_is_named_and_ends_all() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path());
    // If the first rank is stopped, another one speaks.
    for (rank, speaker) in [(1, ""), (0, "rank 1: ")] {
        let out = folder.path().join(rank.to_string());
        let flags = ["--micro-batches=4", "--steps=1000000", "--save-every=3", "--comm-timeout=3s"];
        let mut child = start(&mpi, 4, &args(&out, &data, &flags));
        wait_for(&checkpoint(&out, 6), &mut child);
        let beat = json(&out.join(format!("ranks/{rank:04}.json")));
        let pid = process_of(rank, &out);
        assert_eq!((beat["rank"].as_u64(), beat["pid"].as_i64()), (Some(rank as u64), Some(i64::from(pid))), "{beat}");
        signal(pid, libc::SIGSTOP);
        let ran = ended_soon(child);
        let said = complaint(&ran);
        let host = beat["host"].as_str().unwrap();
        assert!(said.starts_with(&format!("{speaker}error: no answer for ")), "{said}");
        let stopped = format!(" s: rank {rank} ({host}, process {pid}) has shown no sign of life for ");
        assert!(said.contains(&stopped) && said.contains(" phase of step "), "{said}");
        assert!(said.contains("; all others wait in step"), "{said}");
        assert!(said.contains(&format!("flipk train --resume {}", out.display())), "{said}");
        assert_gone(&[pid]);
    }
}

/// The shards of the second rank stop coming; its process is alive.
#[test]
fn a_rank_without_its_data_is_named_with_its_phase() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    (0..24).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 4, false));
    let (hang, out) = (folder.path().join("hang"), folder.path().join("run"));
    let command = format!(
        "--data=pipe:test -e {} && test \"$PMI_RANK\" = 1 && sleep 90; cat {}/{{00000..00023}}.tar",
        hang.display(),
        shards.display()
    );
    let data = [command, vocab(folder.path())];
    let flags = ["--order=shards", "--batch=24", "--threads=1", "--loader-threads=1", "--io-timeout=1000"];
    let more = ["--steps=1000000", "--save-every=3", "--comm-timeout=4s"];
    let mut child = start(&mpi, 2, &args(&out, &data, &[&flags[..], &more].concat()));
    wait_for(&checkpoint(&out, 6), &mut child);
    fs::write(&hang, "").unwrap();
    let pid = process_of(1, &out);
    let ran = ended_soon(child);
    let said = complaint(&ran);
    assert!(said.starts_with("error: no answer for "), "{said}");
    assert!(said.contains(&format!("process {pid}) has been in the data phase of step ")), "{said}");
    let (data, waits) = (number_in(said, "data phase of step ", " for"), number_in(said, "rank 0 waits in step ", ";"));
    assert_eq!(data, waits, "{said}");
}

#[test]
fn a_killed_rank_starts_again_by_itself_to_the_bit() {
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [whole, killed]) = two_runs();
    let flags = train_60_steps(&whole, &data);
    let mut command = with_mpi(Path::new(FLIPK), &mpi);
    let more = ["--save-every=3", "--ranks=2", "--restarts=2", "--comm-timeout=3s"];
    let mut child = command.args(args(&killed, &data, &[&flags[..], &more].concat())).spawn().unwrap();
    // A process that is stopped keeps its lock on the run's folder for a while.
    for (rank, at, how) in [(1, 9, libc::SIGKILL), (0, 24, libc::SIGSTOP)] {
        wait_for(&checkpoint(&killed, at), &mut child);
        signal(process_of(rank, &killed), how);
        assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    }
    let ran = ended_soon(child).expect(0);
    for restart in [1, 2] {
        let said = format!("restart {restart} of 2, from the newest checkpoint of {}", killed.display());
        assert_eq!(ran.stderr.matches(&said).count(), 1, "{}", ran.stderr);
    }
    assert_same([&whole, &killed], 60);
    assert!(!killed.join("ranks").exists(), "heartbeats of a run that has ended");
}

/// The run ended with an error that comes again.
pub fn assert_not_restarted(ran: &Ran, problem: &str) {
    let said = &ran.stderr;
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("error: ")).collect();
    assert!(errors.len() == 2 && errors[0].contains(problem), "{said}");
    assert_eq!(errors[1], "error: no restart: the run would fail again in the same way", "{said}");
    assert!(!said.contains("restart 1 of"), "{said}");
}

/// Ctrl-Z in a terminal stops the launcher alone, which stops `ranks`, for longer than --comm-timeout. After `fg`, the
/// run goes on.
pub fn assert_suspends(mut child: Child, out: &Path) {
    wait_for(&checkpoint(out, 6), &mut child);
    let processes = [child.id() as i32, process_of(0, out), process_of(1, out)];
    let are_stopped = || {
        let state = |process: i32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next()
        };
        processes.iter().all(|&process| state(process) == Some('T'))
    };
    signal(processes[0], libc::SIGTSTP);
    let begun = Instant::now();
    while !are_stopped() {
        assert!(begun.elapsed() < SOON, "they go on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = newest(out);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(newest(out), before);
    signal(processes[0], libc::SIGCONT);
    // Longer than a watchdog waits.
    std::thread::sleep(Duration::from_secs(3));
    assert!(newest(out) > before && !are_stopped());
    signal(processes[0], libc::SIGINT);
    let ran = ended_soon(child).expect(0);
    assert!(checkpoint(out, number_in(&ran.stdout, "stopped after step ", ";")).exists());
    assert!(!ran.stderr.contains("no answer"), "{}", ran.stderr);
}

/// Flags for [`assert_suspends`].
pub const SUSPENDED: [&str; 4] = ["--steps=1000000", "--save-every=3", "--ranks=2", "--comm-timeout=2s"];

#[test]
fn ctrl_z_stops_all_ranks_of_a_launcher() {
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [out, _]) = two_runs();
    assert_suspends(with_mpi(Path::new(FLIPK), &mpi).args(args(&out, &data, &SUSPENDED)).spawn().unwrap(), &out);
}

/// A shard that cannot be read once.
#[test]
fn what_may_pass_is_restarted() {
    let Some(mpi) = mpi() else { return };
    let (folder, data, [whole, failed]) = two_runs();
    let [fails, failed_once, shards] =
        ["fails", "failed-once", "shards"].map(|name| folder.path().join(name).display().to_string());
    let command = format!(
        "--data=pipe:test -e {fails} && test ! -e {failed_once} && : > {failed_once} && exit 3; \
         cat {shards}/{{00000..00023}}.tar"
    );
    let data: Vec<String> = [command].into_iter().chain(data[1..].iter().cloned()).collect();
    let flags = train_60_steps(&whole, &data);
    let more = ["--save-every=3", "--ranks=2", "--restarts=2"];
    let mut command = with_mpi(Path::new(FLIPK), &mpi);
    let mut child = command.args(args(&failed, &data, &[&flags[..], &more].concat())).spawn().unwrap();
    wait_for(&checkpoint(&failed, 6), &mut child);
    fs::write(&fails, "").unwrap();
    let ran = ended_soon(child).expect(0);
    let restart = "the ranks ended (exit status: 75); restart 1 of 2, from the newest checkpoint of";
    assert!(ran.stderr.contains(restart) && !ran.stderr.contains("restart 2"), "{}", ran.stderr);
    assert_same([&whole, &failed], 60);
}

#[test]
fn a_run_that_cannot_go_on_is_not_restarted() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let with = |flags: &[&str]| {
        let mut command = with_mpi(Path::new(FLIPK), &mpi);
        command.args(args(&out, &data, &["--steps=1000000", "--save-every=3"])).args(flags);
        command
    };
    // What the user stops stays stopped.
    let mut child = with(&["--ranks=2", "--restarts=3"]).spawn().unwrap();
    wait_for(&checkpoint(&out, 6), &mut child);
    signal(child.id() as i32, libc::SIGINT);
    let ran = ended_soon(child).expect(0);
    assert_eq!(ran.stderr.matches("stopping: a checkpoint is saved").count(), 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains("restart "), "{}", ran.stderr);
    assert!(checkpoint(&out, number_in(&ran.stdout, "stopped after step ", ";")).exists());
    // The run that is there is not this one.
    let said = ended(with(&["--ranks=2", "--restarts=3"]).spawn().unwrap()).expect(1).stderr;
    assert!(said.contains("already contains a run: continue it with --resume"), "{said}");
    // Every sample of it is broken, or an option is refused.
    for (flags, problem) in [
        (["--max-bad=0.001", "--save-every=3"], "too many broken samples"),
        (["--order=global", "--save-every=3"], "--order is not"),
    ] {
        let mut command = with_mpi(Path::new(FLIPK), &mpi);
        let resumed = resume(&out).into_iter().chain(["--ranks=2", "--restarts=3"].map(str::to_owned));
        let ran = ended(command.args(resumed).args(flags).spawn().unwrap());
        assert_not_restarted(&ran.expect(1), problem);
    }
    // A run that never began.
    let fresh = folder.path().join("fresh");
    let mut command = with_mpi(Path::new(FLIPK), &mpi);
    command.args(args(&fresh, &data, &["--micro-batches=5", "--ranks=2", "--restarts=3"]));
    let ran = ended(command.spawn().unwrap());
    assert_not_restarted(&ran.expect(1), "--micro-batches 5 is invalid");
    let said = flipk(&["train", "--ranks=2", "--restarts=3"]).expect(1).stderr;
    assert!(said.contains("--restarts needs --out or --resume"), "{said}");
    flipk(&["train", "--restarts=3"]).expect(2);
}

/// Checkpoints cannot be written any more: the run trains on, and says so at its end.
#[test]
fn an_error_of_one_rank_ends_all_with_its_reason() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    let flags = ["--micro-batches=4", "--steps=60", "--save-every=3", "--log-every=100"];
    let mut child = start(&mpi, 4, &args(&out, &data, &flags));
    wait_for(&checkpoint(&out, 6), &mut child);
    fs::rename(out.join("checkpoints"), out.join("away")).unwrap();
    fs::write(out.join("checkpoints"), "").unwrap();
    let ran = ended_soon(child);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ran.stderr);
    assert!(errors[0].starts_with("error: cannot ") && errors[0].contains("step-00000060"), "{}", ran.stderr);
    assert!(ran.stderr.contains("training continues, next attempt at step"), "{}", ran.stderr);
}

/// A terminal sends Ctrl-C to all processes, and the launcher passes it on.
#[test]
fn ctrl_c_that_comes_twice_at_once_saves() {
    let Some(mpi) = mpi() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (data(folder.path()), folder.path().join("run"));
    for (which, interrupt) in [libc::SIGINT, libc::SIGTERM].into_iter().enumerate() {
        let out = out.with_extension(which.to_string());
        // Enough to do that no rank ends between the signals.
        let flags = ["--steps=1000000", "--save-every=3", "--micro-batches=2"];
        let mut child = start(&mpi, 2, &args(&out, &data, &flags));
        wait_for(&checkpoint(&out, 6), &mut child);
        let ranks = [0, 1].map(|rank| process_of(rank, &out));
        for process in [-(child.id() as i32), ranks[0], ranks[1]] {
            signal(process, interrupt);
        }
        let ran = ended_soon(child).expect(0);
        assert!(checkpoint(&out, number_in(&ran.stdout, "stopped after step ", ";")).exists());
        assert_eq!(ran.stderr.matches("stopping: ").count(), 1, "{}", ran.stderr);
    }
}
