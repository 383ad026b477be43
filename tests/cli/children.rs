//! Ranks that flipk starts itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{FLIPK, Ran, assert_same, checkpoint, ended, flipk, hear_signals, number_in, resume, wait_for};
use crate::kills::newest;
use crate::ranks::{args, as_torchrun, process_of, train_60_steps, two_runs};
use crate::watch::{SUSPENDED, assert_gone, assert_not_restarted, assert_suspends, complaint, ended_soon, signal};

/// Whether flipk can start itself.
fn can_start() -> bool {
    let alone = std::env::var_os("FLIPK_RUNNER").is_none();
    if !alone {
        eprintln!("skipped: flipk cannot start itself in another runner");
    }
    alone
}

/// As [`two_runs`]; `None` where flipk cannot start itself.
fn start_two() -> Option<(tempfile::TempDir, Vec<String>, [PathBuf; 2])> {
    can_start().then(two_runs)
}

/// Starts flipk where it finds no mpiexec.
fn start(args: &[String]) -> Child {
    let mut command = Command::new(FLIPK);
    command.env("PATH", "").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, as a shell gives it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    hear_signals(&mut command);
    command.spawn().unwrap()
}

fn run(args: &[String]) -> Ran {
    ended(start(args))
}

/// The processes of two ranks.
fn ranks_of(out: &Path) -> [i32; 2] {
    [0, 1].map(|rank| process_of(rank, out))
}

#[test]
fn any_number_of_own_ranks_writes_the_same_checkpoint() {
    let Some((folder, data, [one, _])) = start_two() else { return };
    let flags = ["--micro-batches=4", "--steps=6", "--save-every=3"];
    flipk(&args(&one, &data, &flags)).expect(0);
    for ranks in ["2", "4"] {
        let out = folder.path().join(ranks);
        let number = format!("--ranks={ranks}");
        let ran = run(&args(&out, &data, &[&flags[..], &[&number]].concat())).expect(0);
        assert!(ran.stderr.contains(&format!("no mpiexec in PATH: TCP connects the {ranks} ranks")), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{ranks} ranks, connected by TCP")), "{}", ran.stderr);
        // Only the first one speaks.
        assert_eq!(ran.stdout.matches("final loss").count(), 1, "{}", ran.stdout);
        assert_eq!(ran.stderr.matches("run folder:").count(), 1, "{}", ran.stderr);
        [3, 6].into_iter().for_each(|step| assert_same([&one, &out], step));
    }
}

#[test]
fn emulated_gpus_train_as_one() {
    let Some((_folder, data, [one, two])) = start_two() else { return };
    let flags = ["--device=emulator", "--micro-batches=2", "--batch=8", "--steps=3"];
    // A single rank needs no child.
    flipk(&args(&one, &data, &[&flags[..], &["--gpus=1"]].concat())).expect(0);
    let ran = run(&args(&two, &data, &[&flags[..], &["--gpus=2"]].concat())).expect(0);
    assert!(ran.stderr.contains("2 ranks, connected by TCP") && !ran.stderr.contains("mpiexec"), "{}", ran.stderr);
    assert_same([&one, &two], 3);
}

#[test]
fn a_killed_rank_ends_all_and_another_launch_goes_on_to_the_bit() {
    let Some((_folder, data, [whole, killed])) = start_two() else { return };
    let flags = train_60_steps(&whole, &data);
    let mut child = start(&args(&killed, &data, &[&flags[..], &["--save-every=3", "--ranks=4"]].concat()));
    wait_for(&checkpoint(&killed, 9), &mut child);
    let others = [0, 1, 3].map(|rank| process_of(rank, &killed));
    signal(process_of(2, &killed), libc::SIGKILL);
    let ran = ended_soon(child).expect(128 + libc::SIGKILL);
    assert!(ran.stderr.contains("error: rank 2 was killed (signal: 9 (SIGKILL)); all ranks end"), "{}", ran.stderr);
    assert_gone(&others);
    // This one restarts by itself, and rank 0 is killed.
    let resume = format!("--resume={}", killed.display());
    let mut child = start(&["train", &resume, "--ranks=2", "--restarts=1"].map(str::to_owned));
    wait_for(&checkpoint(&killed, 24), &mut child);
    signal(process_of(0, &killed), libc::SIGKILL);
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    let ran = ended_soon(child).expect(0);
    assert_eq!(ran.stderr.matches("restart 1 of 1, from the newest checkpoint of").count(), 1, "{}", ran.stderr);
    assert_same([&whole, &killed], 60);
}

/// A stopped process does not react to SIGTERM.
#[test]
fn a_stopped_rank_is_named_and_killed() {
    let Some((_folder, data, [out, _])) = start_two() else { return };
    let flags = ["--steps=1000000", "--save-every=3", "--ranks=2", "--comm-timeout=3s"];
    let mut child = start(&args(&out, &data, &flags));
    wait_for(&checkpoint(&out, 6), &mut child);
    let ranks = ranks_of(&out);
    signal(ranks[1], libc::SIGSTOP);
    let ran = ended_soon(child);
    assert!(complaint(&ran).contains(" s: rank 1 ("), "{}", ran.stderr);
    assert_gone(&ranks);
}

#[test]
fn signals_reach_all_ranks() {
    let Some((folder, data, _)) = start_two() else { return };
    let begin = |name: &str| {
        let out = folder.path().join(name);
        let mut child = start(&args(&out, &data, &["--steps=1000000", "--save-every=3", "--ranks=2"]));
        wait_for(&checkpoint(&out, 3), &mut child);
        (child, out)
    };
    for (name, first) in [("int", libc::SIGINT), ("term", libc::SIGTERM), ("usr1", libc::SIGUSR1)] {
        let (child, out) = begin(name);
        signal(child.id() as i32, first);
        let ran = ended_soon(child).expect(0);
        assert!(checkpoint(&out, number_in(&ran.stdout, "stopped after step ", ";")).exists());
        assert_eq!(ran.stderr.matches("stopping: ").count(), usize::from(name != "usr1"), "{}", ran.stderr);
    }
    // A rank that hangs does not save; the second Ctrl-C ends the others, the third one all.
    let (child, out) = begin("twice");
    let ranks = ranks_of(&out);
    signal(ranks[1], libc::SIGSTOP);
    for _ in 0..3 {
        signal(child.id() as i32, libc::SIGINT);
        std::thread::sleep(Duration::from_millis(1100));
    }
    ended_soon(child).expect(130);
    assert_gone(&ranks);
    // Ranks do not outlive their parent, and a resume at once waits until they have ended.
    let (mut child, out) = begin("orphans");
    let ranks = ranks_of(&out);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut again = start(&resume(&out).into_iter().chain(["--save-every=1".to_owned()]).collect::<Vec<_>>());
    assert_gone(&ranks);
    wait_for(&checkpoint(&out, newest(&out) + 2), &mut again);
    signal(again.id() as i32, libc::SIGINT);
    ended_soon(again).expect(0);
}

/// A run repeats to the bit, and its losses with it.
#[test]
fn a_divergence_is_not_restarted() {
    let Some((_folder, data, [out, _])) = start_two() else { return };
    let flags = ["--steps=20", "--save-every=1", "--lr=1e30", "--warmup-samples=24", "--ranks=2", "--restarts=2"];
    assert_not_restarted(&run(&args(&out, &data, &flags)).expect(1), "training has diverged");
}

#[test]
fn ctrl_z_stops_all_ranks() {
    let Some((_folder, data, [out, _])) = start_two() else { return };
    assert_suspends(start(&args(&out, &data, &SUSPENDED)), &out);
}

#[test]
fn what_does_not_fit_is_an_error_of_one_line() {
    let (_folder, data, [out, _]) = two_runs();
    let fails = |flags: &[&str], code: i32| flipk(&args(&out, &data, flags)).expect(code).stderr;
    assert!(fails(&["--gpus=2", "--ranks=2"], 2).contains("cannot be used with"));
    assert!(fails(&["--gpus=0"], 2).contains("it must be a number of GPUs, at least 1, or `all`"));
    for gpus in ["1", "2", "all"] {
        let said = fails(&[&format!("--gpus={gpus}"), "--device=cpu"], 1);
        assert!(said.contains("--gpus contradicts --device cpu"), "{said}");
    }
    if flipk(&["info"]).stdout.contains("no NVIDIA driver") {
        for gpus in ["1", "2", "all"] {
            let said = fails(&[&format!("--gpus={gpus}")], 1);
            assert!(said.contains("no NVIDIA GPU can be used: there is no NVIDIA driver"), "{said}");
        }
    } else {
        assert!(fails(&["--gpus=4096"], 1).contains("--gpus 4096: this machine has "));
    }
    // All ranks have the same problem, and one says so.
    for (flags, problem) in [
        (
            &["--gpus=3", "--device=emulator"][..],
            "--gpus asks for 3 ranks on this machine, and the launcher has started 2",
        ),
        (&["--ranks=3"], "--ranks 3 contradicts the launcher, which has started 2"),
        (&["--ranks=2", "--restarts=1"], "--restarts is for ranks that flipk starts itself"),
        (&["--micro-batches=3"], "2 ranks cannot share 3 micro-batches"),
    ] {
        let [second, first] = as_torchrun(&args(&out, &data, flags)).map(|ran| ran.expect(1).stderr);
        assert!(first.contains(problem) && second.is_empty(), "{first}{second}");
    }
    if can_start() {
        let said = run(&args(&out, &data, &["--ranks=3", "--micro-batches=8"])).expect(1).stderr;
        assert_eq!(said.matches("3 ranks cannot share 8 micro-batches").count(), 1, "{said}");
        assert!(!said.contains("rank 1"), "{said}");
    }
    assert!(!out.exists(), "nothing was begun");
}
