//! The GPU's path without a GPU: the same kernels, in emulation.

use std::path::Path;

use crate::harness::{checkpoint, flipk, tensors, train};

const EMULATOR: &str = "--device=emulator";

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

#[test]
fn it_trains_as_the_cpu_does_and_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, whole, halves] = ["cpu", "whole", "halves"].map(|name| folder.path().join(name));
    train(&cpu, &["--steps=12"]).expect(0);
    train(&whole, &["--steps=12", "--save-every=6", EMULATOR]).expect(0);
    let [exact, found] = [&cpu, &whole].map(|run| losses(run));
    assert_eq!((exact.len(), found.len()), (12, 12));
    assert!(exact[11] < exact[0], "{exact:?}");
    for (exact, found) in exact.iter().zip(&found) {
        // bf16's tolerance for training losses, as `flipk verify` has it.
        assert!((exact - found).abs() < 2e-2 * exact, "{exact} on the CPU, {found} in emulation");
    }
    // The same run from its checkpoint in the middle.
    std::fs::create_dir_all(halves.join("checkpoints")).unwrap();
    for file in ["config.toml", "tokenizer.json"] {
        std::fs::copy(whole.join(file), halves.join(file)).unwrap();
    }
    std::fs::copy(checkpoint(&whole, 6), checkpoint(&halves, 6)).unwrap();
    let resume = format!("--resume={}", halves.display());
    let ran = flipk(&["train", &resume, EMULATOR]).expect(0);
    assert!(!ran.stderr.contains("changed:"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&whole, 12)) == tensors(&checkpoint(&halves, 12)));
    // On another device the results would differ.
    let ran = flipk(&["train", &resume, "--steps=13", "--device=cpu", "--precision=f32"]).expect(0);
    let said = "was computed in emulated GPU, bf16, and the run continues in cpu, f32;";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

#[test]
fn f32_kernels_and_the_sigmoid_loss_train_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, emulated] = ["cpu", "emulated"].map(|name| folder.path().join(name));
    let more = ["--steps=4", "--loss=sigmoid"];
    train(&cpu, &more).expect(0);
    train(&emulated, &[&more[..], &[EMULATOR, "--precision=f32"]].concat()).expect(0);
    for (exact, found) in losses(&cpu).iter().zip(losses(&emulated)) {
        assert!((exact - found).abs() < 1e-4 * exact, "{exact} on the CPU, {found} in emulation");
    }
}

#[test]
fn a_machine_without_a_gpu_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let ran = flipk(&["info"]).expect(0);
    assert!(ran.stdout.contains("attention") && ran.stdout.contains("nvcc"), "{}", ran.stdout);
    if !ran.stdout.contains("no NVIDIA driver") {
        println!("skipped: there is an NVIDIA driver here");
        return;
    }
    let ran = train(&folder.path().join("run"), &["--steps=1", "--device=cuda"]).expect(1);
    assert!(ran.stderr.contains("no NVIDIA GPU can be used") && ran.stderr.contains("--device cpu"), "{}", ran.stderr);
}
