//! Going on: after `kill -9`, after Ctrl-C, to the bit.

use std::process::Command;

use crate::harness::{checkpoint, ended, flipk, start_until, tensors, train, train_args};

const STEPS: &str = "--steps=60";

#[test]
fn a_killed_run_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    train(&whole, &[STEPS, "--save-every=0"]).expect(0);
    let mut child = start_until(&train_args(&killed, &[STEPS, "--save-every=10"]), &checkpoint(&killed, 10));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    let resume = format!("--resume={}", killed.display());
    // Other threads must not matter either.
    let ran = flipk(&["train", &resume, "--threads=1", "--loader-threads=3"]).expect(0);
    assert!(!ran.stderr.contains("changed:"), "{}", ran.stderr);
    let [one, two] = [&whole, &killed].map(|run| tensors(&checkpoint(run, 60)));
    assert!(one.len() > 30 && one.keys().eq(two.keys()));
    for (name, bytes) in &one {
        assert!(two[name] == *bytes, "{name} differs");
    }
    let lines = std::fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=60).collect::<Vec<_>>(), "no line twice, none missing");
    // A finished run that is resumed has nothing to do but evaluate.
    flipk(&["train", &resume]).expect(0);
    assert!(tensors(&checkpoint(&killed, 60)) == one);
}

#[test]
fn ctrl_c_saves_and_the_run_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    train(&whole, &[STEPS, "--save-every=0"]).expect(0);
    let child = start_until(&train_args(&stopped, &[STEPS, "--save-every=0"]), &stopped.join("metrics.jsonl"));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let ran = ended(child).expect(0);
    assert!(ran.stdout.contains("go on with: flipk train --resume"), "{}", ran.stdout);
    // Nor does it matter what the backward pass computes again.
    let ran = flipk(&["train", &format!("--resume={}", stopped.display()), "--recompute=blocks"]).expect(0);
    assert!(!ran.stderr.contains("changed:"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&stopped, 60)));
}

#[test]
fn changing_the_run_is_told_and_another_model_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=2", "--keep=1", "--save-every=1"]).expect(0);
    assert!(!checkpoint(&run, 1).exists() && checkpoint(&run, 2).exists(), "only the last one is kept");
    let resume = format!("--resume={}", run.display());
    let ran = flipk(&["train", &resume, "--steps=3"]).expect(0);
    assert!(ran.stderr.contains("changed: steps;"), "{}", ran.stderr);
    let ran = flipk(&["train", &resume, "--vision-layers=2"]).expect(1);
    assert!(ran.stderr.contains("the model's sizes differ") && ran.stderr.contains("--init-from"), "{}", ran.stderr);
    let ran = flipk(&["train", &resume, "--vision-layers=1", "--data=embedded:twemoji"]).expect(1);
    assert!(ran.stderr.contains("the training data differ"), "{}", ran.stderr);
    let tuned = folder.path().join("tuned");
    let from = format!("--init-from={}", run.display());
    let ran = train(&tuned, &["--steps=1", "--mask-ratio=0", &from]).expect(0);
    assert!(ran.stderr.contains("16 of 16 patches visible"), "{}", ran.stderr);
}

#[test]
fn the_sigmoid_loss_trains_goes_on_to_the_bit_and_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts, tuned] = ["whole", "parts", "tuned"].map(|name| folder.path().join(name));
    train(&whole, &["--loss=sigmoid", "--steps=6", "--warmup-samples=0"]).expect(0);
    train(&parts, &["--loss=sigmoid", "--steps=6", "--warmup-samples=0", "--save-every=3"]).expect(0);
    std::fs::remove_file(checkpoint(&parts, 6)).unwrap();
    let resume = format!("--resume={}", parts.display());
    let ran = flipk(&["train", &resume, "--loss=infonce"]).expect(1);
    assert!(ran.stderr.contains("the losses differ"), "{}", ran.stderr);
    flipk(&["train", &resume, "--loss=sigmoid"]).expect(0);
    let one = tensors(&checkpoint(&whole, 6));
    assert!(one["logit_bias"] != (-10f32).to_le_bytes() && tensors(&checkpoint(&parts, 6)) == one);
    let loss = |run: &std::path::Path, line: usize| {
        let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.lines().nth(line).unwrap()).unwrap();
        line["loss"].as_f64().unwrap()
    };
    // A bias of -10 and a temperature of 10: one pair of a batch costs about 10 at first.
    assert!((5.0..15.0).contains(&loss(&whole, 0)) && loss(&whole, 5) < loss(&whole, 0));
    let run = whole.display().to_string();
    flipk(&["eval", "zero-shot", &run, "--data=embedded:twemoji", "--json"]).expect(0);
    // The towers serve any loss.
    train(&tuned, &["--steps=1", &format!("--init-from={run}")]).expect(0);
    assert!(!tensors(&checkpoint(&tuned, 1)).contains_key("logit_bias"));
}
