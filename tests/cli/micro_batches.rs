//! `--micro-batches`: large batches in equal parts.

use std::path::Path;

use crate::harness::{checkpoint, flipk, start_until, tensors, train, train_args};
use crate::shards::{shard, vocab};

/// The state in a checkpoint's header.
fn state(path: &Path) -> serde_json::Value {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["flipk"]).unwrap()
}

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < tolerance, "{found}, not {expected}");
    }
}

/// Broken samples in the shards of each stream, and a kill in the middle: to the bit. One pass over batches of the same
/// streams has the same losses within rounding, so each micro-batch has the rows of its stream.
#[test]
fn a_killed_run_goes_on_to_the_bit_and_one_pass_is_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    (0..24).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 3 + number % 3, number % 5 == 0));
    let [whole, killed, one_pass] = ["whole", "killed", "one-pass"].map(|name| folder.path().join(name));
    let data = format!("--data={}", shards.display());
    let vocab = vocab(folder.path());
    let common = [&*data, &vocab, "--order=shards", "--batch=12", "--steps=60", "--max-bad=0.5", "--clip-norm=1"];
    let flags = [&common[..], &["--micro-batches=4"]].concat();
    let said = train(&whole, &[&flags[..], &["--save-every=0"]].concat()).expect(0).stderr;
    assert!(said.contains("4 micro-batches of 3: activations ") && said.contains("(in one pass: "), "{said}");
    let recorded = state(&checkpoint(&whole, 60));
    assert_eq!((&recorded["micro_batches"], recorded["position"].as_array().unwrap().len()), (&4.into(), 4));
    let mut child =
        start_until(&train_args(&killed, &[&flags[..], &["--save-every=5"]].concat()), &checkpoint(&killed, 20));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    let resume = format!("--resume={}", killed.display());
    let said = flipk(&["train", &resume, "--threads=1"]).expect(0).stderr;
    assert!(!said.contains("changed:"), "{said}");
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&killed, 60)));
    assert!(losses(&whole) == losses(&killed));
    train(&one_pass, &[&common[..], &["--streams=4"]].concat()).expect(0);
    // Roundings grow from step to step.
    assert_close(&losses(&whole)[..3], &losses(&one_pass)[..3], 1e-5);
    assert_close(&losses(&whole), &losses(&one_pass), 1e-2);
}

#[test]
fn other_micro_batches_go_on_with_the_same_data_and_bad_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [run, other] = ["run", "other"].map(|name| folder.path().join(name));
    let said = train(&run, &["--steps=1", "--micro-batches=5"]).expect(1).stderr;
    assert!(said.contains("--micro-batches 5 is invalid: it must divide the batch of 32"), "{said}");
    assert!(!run.exists());
    for run in [&run, &other] {
        train(run, &["--steps=4", "--micro-batches=4", "--recompute=blocks", "--loss=sigmoid"]).expect(0);
    }
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("micro_batches = 4") && config.contains("streams = 4"), "{config}");
    let resume = |run: &Path, flag: &str| {
        flipk(&["train", &format!("--resume={}", run.display()), "--steps=6", flag]).expect(0).stderr
    };
    assert!(!resume(&run, "--micro-batches=4").contains("micro_batches"));
    let said = resume(&other, "--micro-batches=8");
    assert!(said.contains("changed: micro_batches, steps; the weights will differ"), "{said}");
    let recorded = state(&checkpoint(&other, 6));
    assert_eq!((&recorded["micro_batches"], recorded["position"].as_array().unwrap().len()), (&8.into(), 4));
    assert_close(&losses(&other), &losses(&run), 1e-4);
}

#[test]
fn the_emulated_gpu_trains_in_micro_batches_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, emulated] = ["cpu", "emulated"].map(|name| folder.path().join(name));
    let more = ["--steps=3", "--batch=16", "--micro-batches=2"];
    train(&cpu, &more).expect(0);
    let said = train(&emulated, &[&more[..], &["--device=emulator", "--precision=f32"]].concat()).expect(0).stderr;
    // How much an emulated GPU has is not known, so the activations of one are kept.
    assert!(said.contains("times the time, since each forward pass runs twice"), "{said}");
    assert_close(&losses(&emulated), &losses(&cpu), 1e-4);
}

#[test]
fn a_profile_shows_one_micro_batch() {
    let ran = flipk(&["profile", "--micro-batches=4", "--batch=16", "--profile-steps=1", "--group=op"]).expect(0);
    assert!(ran.stdout.contains("one micro-batch of 4 as a step of its own"), "{}", ran.stdout);
}
