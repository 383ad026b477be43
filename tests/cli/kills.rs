//! `kill -9` at random moments, again and again: the run ends as one that was never disturbed.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{assert_same, checkpoint, command, ended, flipk, number_in, resume, tensors, train, train_args};
use crate::ranks::{args, find_process, mpi, start, two_runs};
use crate::shards::{shard, vocab};
use crate::watch::signal;

/// The loss of each step as it stands in the metrics. Equal batches have equal losses.
fn losses(run: &Path) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap())).collect()
}

/// The same random numbers in each test run.
fn random() -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// Kills a run of `steps` steps `kills` times, each time within `longest` ms after its start.
fn survives(kills: usize, steps: u64, longest: u64) {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    fs::create_dir(&shards).unwrap();
    (0..40).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 3 + number % 3, number % 9 == 0));
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let data = format!("--data={}", shards.display());
    let (vocab, steps_flag) = (vocab(folder.path()), format!("--steps={steps}"));
    let common = [&*data, &vocab, &steps_flag, "--order=shards", "--streams=2", "--batch=8", "--max-bad=0.5"];
    train(&whole, &[&common[..], &["--save-every=0"]].concat()).expect(0);
    let start = train_args(&killed, &[&common[..], &["--save-every=5"]].concat());
    let resume = resume(&killed);
    let mut next = random();
    for kill in 0..kills {
        // A run that was killed before it had described itself is started again.
        let args = if killed.join("config.toml").exists() { &resume[..] } else { &start };
        let mut child = command().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(next() % longest));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_none(), "it ended before kill {kill}: {:?}\n{said}", output.status);
    }
    let said = flipk(&resume).expect(0).stderr;
    assert!(tensors(&checkpoint(&whole, steps)) == tensors(&checkpoint(&killed, steps)), "{said}");
    assert!(losses(&whole) == losses(&killed), "{said}");
    let step = number_in(&said, " steps from ", ";");
    println!("{kills} kills; the last part began at step {} of {steps}", step);
}

#[test]
fn a_run_survives_ten_kills() {
    survives(10, 1500, 250);
}

#[test]
#[ignore = "takes two minutes, and the test above kills ten times: run it by `cargo test --release --test cli -- --ignored --nocapture 200`"]
fn a_run_survives_200_kills() {
    survives(200, 20_000, 300);
}

/// Any rank of two or four is killed, and the run continues with the other number of ranks.
#[test]
#[ignore = "takes some minutes, and other tests kill ranks twice: run it by `cargo test --release --test cli -- --ignored --nocapture 50`"]
fn a_run_on_ranks_survives_50_kills() {
    const STEPS: u64 = 2000;
    const KILLS: u64 = 50;
    let Some(mpi) = mpi() else { return };
    let (_folder, data, [whole, killed]) = two_runs();
    let steps = format!("--steps={STEPS}");
    let flags = |save_every| ["--micro-batches=4", &steps, save_every];
    flipk(&args(&whole, &data, &flags("--save-every=0"))).expect(0);
    let first = args(&killed, &data, &flags("--save-every=5"));
    let resume = resume(&killed);
    let (mut next, mut longest_end) = (random(), Duration::ZERO);
    for kill in 0..KILLS {
        let ranks = if kill % 2 == 0 { 4 } else { 2 };
        let args = if killed.join("config.toml").exists() { &resume[..] } else { &first };
        let child = start(&mpi, ranks, args);
        let (rank, delay) = (next() as usize % ranks, Duration::from_millis(next() % 3000));
        let process = poll(|| find_process(rank, &killed));
        // On a fast machine, each part is so short that steps are left for all kills.
        let (begun, most) = (Instant::now(), STEPS * (kill + 1) / (KILLS + 1));
        while begun.elapsed() < delay && newest(&killed) < most {
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(process, libc::SIGKILL);
        let begun = Instant::now();
        let ran = ended(child);
        assert!(ran.code != Some(0), "it ended before kill {kill}: {}", ran.stderr);
        poll(|| (0..ranks).all(|rank| find_process(rank, &killed).is_none()).then_some(()));
        longest_end = longest_end.max(begun.elapsed());
    }
    let said = ended(start(&mpi, 4, &resume)).expect(0).stderr;
    assert_same([&whole, &killed], STEPS);
    assert!(losses(&whole) == losses(&killed), "{said}");
    let step = number_in(&said, " steps from ", ";");
    println!("{KILLS} kills; all ranks ended within {longest_end:?}; the last part began at step {step} of {STEPS}");
}

/// The step of the newest checkpoint.
pub fn newest(run: &Path) -> u64 {
    let files = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let step = |name: String| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok();
    names.filter_map(step).max().unwrap_or_default()
}

/// What `look` finds in the end.
fn poll<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
