//! A shortened quickstart, and its run folder.

use std::path::Path;

use flipk::device::Cpu;

use crate::harness::{flipk, json, train};

/// `flipk train` as in the README, on fewer samples. The bounds are far above chance (0.05 % and 0.27 %) and far below
/// what it reaches.
#[test]
fn the_quickstart_learns() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let out = format!("--out={}", run.display());
    let ran = flipk(&["train", &out, "--samples=20000", "--save-every=0"]).expect(0);
    assert!(ran.stdout.contains("held-out zero-shot top-1"), "{}", ran.stdout);
    assert!(ran.stderr.contains("samples/s") && ran.stderr.contains("GFLOP/s"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    let summary = json(&run.join("summary.json"));
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key} in {summary}"));
    assert!(number("zero_shot_top5") > 0.01 && number("zero_shot_top1") > 0.0, "{summary}");
    assert!(number("final_loss") < 4.8, "{summary}");
    assert_eq!((number("classes"), number("seed")), (1852.0, 0.0));
    assert_eq!(number("samples"), 20_224.0, "whole batches");
    assert!(number("samples_per_second") > 0.0 && number("wall_seconds") > 0.0);
    assert!(summary["device"].as_str().unwrap().starts_with("cpu"));
    for file in ["config.toml", "tokenizer.json", "metrics.jsonl", "curve.svg", "checkpoints/step-00000079.safetensors"]
    {
        assert!(run.join(file).is_file(), "{file}");
    }
    assert_eq!(std::fs::read_dir(run.join("tensorboard")).unwrap().count(), 1);
}

/// The metrics of each line, except speed.
fn curve(run: &Path) -> Vec<[String; 6]> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let numbers = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        ["step", "loss", "accuracy", "grad_norm", "logit_scale", "zero_shot_top5"].map(|key| line[key].to_string())
    };
    text.lines().map(numbers).collect()
}

/// A run repeated from the configuration in its folder has the same metrics, except speed.
#[test]
fn a_run_repeats_from_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
    train(&first, &["--steps=4", "--mask-ratio=0.5", "--seed=3"]).expect(0);
    let (config, out) =
        (format!("--config={}", first.join("config.toml").display()), format!("--out={}", second.display()));
    flipk(&["train", &config, &out, "--threads=1", "--loader-threads=3", "--recompute=blocks"]).expect(0);
    assert_eq!(curve(&first).len(), 4);
    assert_eq!(curve(&first), curve(&second), "threads, repetition and recomputation must not matter");
    let [less, more] =
        [&second, &first].map(|run| json(&run.join("summary.json"))["activation_bytes"].as_u64().unwrap());
    assert!(less < more, "{less} of {more}");
    assert_eq!(json(&first.join("summary.json"))["mask_ratio"], 0.5);
}

/// A run in bf16 is close to the same run in f32 but not equal to it, and repeats on any number of threads.
#[test]
fn a_run_in_bf16_is_close_to_f32_and_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &str| {
        let out = folder.path().join(name);
        (train(&out, &["--device=cpu", "--steps=6", "--seed=3", more]), out)
    };
    let (rounded, first) = run("bf16", "--precision=bf16");
    if let Err(error) = Cpu::bf16() {
        println!("bf16 is not supported here: {error}");
        let said = rounded.expect(1).stderr;
        return assert!(said.contains("AVX-512 BF16") && said.contains("--precision f32"), "{said}");
    }
    assert!(rounded.expect(0).stderr.contains("bf16 products"));
    let second = folder.path().join("again");
    let args = ["--device=cpu", "--steps=6", "--seed=3", "--precision=bf16", "--threads=1"];
    train(&second, &args).expect(0);
    assert_eq!(curve(&first), curve(&second));
    let (plain, third) = run("f32", "--precision=f32");
    plain.expect(0);
    let loss = |run: &Path| json(&run.join("summary.json"))["final_loss"].as_f64().unwrap();
    let off = (loss(&first) - loss(&third)).abs() / loss(&third);
    assert!(off > 0.0 && off < 0.01, "{} and {}", loss(&first), loss(&third));
}
