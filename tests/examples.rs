//! The programs in examples/ run, and print what they promise. `cargo test` builds them before it runs the tests; with
//! `--test examples` alone it does not, so build them before: `cargo build --release --examples`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flipk::data::{CaptionKeys, Dataset};
use flipk::device::Cpu;
use flipk::train::{Options, Plan, train};
use serde_json::Value;

/// The program of an example, which cargo puts next to the folder of this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.is_file(), "{} is missing: run `cargo build --release --examples`", program.display());
    Command::new(program)
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run of one step in `folder`.
fn train_briefly(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    let data = Some(vec!["embedded:noto".to_owned()]);
    let options = Options { data, steps: Some(1), batch: Some(8), vision_layers: Some(1), ..Options::default() };
    let plan = Plan::start(options, Some(&run)).unwrap();
    train(Arc::new(Cpu::default()), plan, &AtomicBool::new(false), &mut |_| ()).unwrap();
    run
}

/// An archive of the first `count` samples of the embedded data; their keys and captions.
fn archive(path: &Path, count: u64) -> Vec<(String, String)> {
    let dataset = Dataset::open(&["embedded:fluent"], CaptionKeys::default()).unwrap();
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut append = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let samples = (0..count).map(|sample| {
        let (key, caption) = (format!("{sample:02}"), dataset.caption(sample).unwrap().first().to_owned());
        // Whatever its format: that is recognised by content.
        append(format!("{key}.png"), &dataset.image(sample).unwrap());
        append(format!("{key}.txt"), caption.as_bytes());
        (key, caption)
    });
    let samples = samples.collect();
    archive.finish().unwrap();
    samples
}

#[test]
fn embed_prints_an_embedding_of_each_image_and_caption() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.tar");
    // More than one batch, and the last one is short.
    let samples = archive(&data, 35);
    let text = stdout(example("embed").arg(train_briefly(folder.path())).arg(data).output().unwrap());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: Vec<_> = lines.iter().map(|line| ["key", "caption"].map(|name| line[name].as_str().unwrap())).collect();
    assert_eq!(named, samples.iter().map(|(key, caption)| [key.as_str(), caption]).collect::<Vec<_>>());
    for part in ["image", "text"] {
        let row = |line: &Value| -> Vec<f64> {
            line[part].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let rows: Vec<Vec<f64>> = lines.iter().map(row).collect();
        for (at, row) in rows.iter().enumerate() {
            let length = row.iter().map(|number| number * number).sum::<f64>().sqrt();
            assert!(row.len() == 128 && (length - 1.0).abs() < 1e-5, "{part} {at}: length {length}");
            assert!(!rows[..at].contains(row), "{part} {at} has the embedding of another");
        }
    }
}

#[test]
fn embed_says_what_is_missing() {
    let error = |arguments: &[&str]| {
        let output = example("embed").args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(error(&[]).contains("give a run folder or checkpoint"));
    assert!(error(&["/nowhere", "embedded:fluent"]).contains("cannot open /nowhere"));
}

/// Guessing among 32 gives a loss of ln 32 = 3.47; training starts a little above it and ends below.
#[test]
fn train_loop_lowers_the_loss() {
    let text = stdout(example("train_loop").output().unwrap());
    let loss = |line: &str| line.split_whitespace().skip_while(|word| *word != "loss").nth(1).unwrap().parse().unwrap();
    let losses: Vec<f64> = text.lines().map(loss).collect();
    assert_eq!(losses.len(), 16);
    let [start, end] = [&losses[..4], &losses[12..]].map(|losses| losses.iter().sum::<f64>() / 4.0);
    assert!((3.0..4.5).contains(&start) && end < 32f64.ln(), "{losses:?}");
}

/// It fails if a gradient differs from central differences by more than 1e-3 of the largest.
#[test]
fn new_op_has_the_right_gradients() {
    let text = stdout(example("new_op").output().unwrap());
    let counts: Vec<String> = text.lines().map(|line| line.split_inclusive(" gradients").take(1).collect()).collect();
    assert_eq!(counts, ["x: 35 gradients", "weight: 42 gradients", "gamma: 6 gradients"], "{text}");
}

#[test]
fn load_times_the_loader() {
    let text = stdout(example("load").args(["embedded:noto", "0.75", "1", "0.1"]).output().unwrap());
    let rates: Value = serde_json::from_str(&text).unwrap();
    for rate in ["samples_per_second", "samples_per_cpu_second"] {
        assert!(rates[rate].as_f64().is_some_and(|rate| rate > 0.0), "{rates}");
    }
    assert_eq!(rates["skipped"], 0);
}
