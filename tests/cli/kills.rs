//! `kill -9` at random moments, again and again: the run ends as one that was never disturbed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{checkpoint, command, flipk, tensors, train, train_args};
use crate::shards::{shard, vocab};

/// The loss of each step as it stands in the metrics. Equal batches have equal losses.
fn losses(run: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap())).collect()
}

/// Kills a run of `steps` steps `kills` times, each time within `longest` ms after its start.
fn survives(kills: usize, steps: u64, longest: u64) {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    (0..40).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 3 + number % 3, number % 9 == 0));
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let data = format!("--data={}", shards.display());
    let (vocab, steps_flag) = (vocab(folder.path()), format!("--steps={steps}"));
    let common = [&*data, &vocab, &steps_flag, "--order=shards", "--streams=2", "--batch=8", "--max-bad=0.5"];
    train(&whole, &[&common[..], &["--save-every=0"]].concat()).expect(0);
    let start = train_args(&killed, &[&common[..], &["--save-every=5"]].concat());
    let resume = ["train".to_owned(), format!("--resume={}", killed.display())];
    let mut random = 1_u64;
    for kill in 0..kills {
        // A run that was killed before it had described itself is started again.
        let args = if killed.join("config.toml").exists() { &resume[..] } else { &start };
        let mut child = command().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((random >> 33) % longest));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_none(), "it ended before kill {kill}: {:?}\n{said}", output.status);
    }
    let said = flipk(&resume).expect(0).stderr;
    assert!(tensors(&checkpoint(&whole, steps)) == tensors(&checkpoint(&killed, steps)), "{said}");
    assert!(losses(&whole) == losses(&killed), "{said}");
    let step = said.split(" steps from ").nth(1).and_then(|rest| rest.split(';').next());
    println!("{kills} kills; the last part began at step {} of {steps}", step.unwrap_or_default());
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
