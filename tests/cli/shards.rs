//! The order of shards: many of them, and resumed runs.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::harness::{checkpoint, flipk, start_until, tensors, train, train_args};
use crate::pack;
use crate::robust::png;

/// A shard with samples of its own; the image of the last is broken if `broken`.
pub fn shard(path: &Path, number: usize, samples: usize, broken: bool) {
    let mut archive = Vec::new();
    for sample in 0..samples {
        let is_broken = broken && sample + 1 == samples;
        let image = if is_broken { b"no image".to_vec() } else { png((number * 7 + sample) as u8) };
        pack::append(&mut archive, format!("{sample}.png"), &image);
        pack::append(&mut archive, format!("{sample}.txt"), format!("a word {}", (number + sample) % 10).as_bytes());
    }
    pack::finish(&mut archive);
    std::fs::write(path, archive).unwrap();
}

pub fn vocab(folder: &Path) -> String {
    let path = folder.join("vocab.txt");
    std::fs::write(&path, "[PAD]\n[UNK]\na\nword\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
    format!("--tokenizer={}", path.display())
}

fn data(folder: &Path) -> String {
    format!("--data={}", folder.display())
}

/// In the middle of the second epoch of 40 shards in three groups per stream; the data moves, and threads change.
#[test]
fn a_killed_run_by_shard_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (shards, moved) = (folder.path().join("shards"), folder.path().join("moved"));
    std::fs::create_dir(&shards).unwrap();
    (0..70).for_each(|number| shard(&shards.join(format!("{number:05}.tar")), number, 3 + number % 3, number % 9 == 0));
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let common = [&data(&shards), &vocab(folder.path()), "--order=shards", "--streams=2", "--batch=8", "--steps=60"];
    train(&whole, &[&common[..], &["--save-every=0"]].concat()).expect(0);
    let args = train_args(&killed, &[&common[..], &["--save-every=5"]].concat());
    let mut child = start_until(&args, &checkpoint(&killed, 40));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    std::fs::rename(&shards, &moved).unwrap();
    let resume = format!("--resume={}", killed.display());
    let moved = data(&moved);
    for (flags, words) in [
        ([&*moved, "--order=global"], "--order is not what the run"),
        ([&*moved, "--streams=1"], "--streams is not what the run"),
        (["--data=embedded:noto", "--order=auto"], "the training data differs"),
    ] {
        let ran = flipk(&["train", &resume, flags[0], flags[1]]).expect(1);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let ran = flipk(&["train", &resume, &moved, "--threads=1", "--loader-threads=3"]).expect(0);
    assert!(ran.stderr.contains("the training data has moved"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&killed, 60)));
    // Both have opened every shard, and each is written down once.
    let counts = |run: &Path| std::fs::read_to_string(run.join("shards.tsv")).unwrap().lines().count();
    assert_eq!(counts(&whole), 70);
}

/// Runs of earlier versions have neither in their `config.toml`.
#[test]
fn a_run_from_before_there_were_orders_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=2"]).expect(0);
    let config = run.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("order = \"global\"\n"), "{text}");
    let is_new = |line: &&str| ["order", "streams", "jpeg"].iter().any(|key| line.starts_with(key));
    let before: Vec<&str> = text.lines().filter(|line| !is_new(line)).collect();
    std::fs::write(&config, before.join("\n")).unwrap();
    let ran = flipk(&["train", &format!("--resume={}", run.display()), "--steps=3"]).expect(0);
    assert!(ran.stderr.contains("changed: steps;"), "{}", ran.stderr);
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("order = \"global\"\n") && text.contains("jpeg = \"rust\"\n"), "{text}");
    let ran = flipk(&["train", &format!("--resume={}", run.display()), "--steps=4", "--jpeg=turbo"]).expect(1);
    assert!(ran.stderr.contains("--jpeg is not what the run"), "{}", ran.stderr);
}

/// `count` shards of four samples each: links to a few files, since a file cannot have any number of names.
fn many_shards(folder: &Path, count: usize) {
    let mut file = PathBuf::new();
    for number in 0..count {
        let path = folder.join(format!("{number:06}.tar"));
        if number % 30_000 == 0 {
            shard(&path, number, 4, false);
            file = path;
        } else {
            std::fs::hard_link(&file, &path).unwrap();
        }
    }
}

#[test]
fn only_the_shards_that_are_needed_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    many_shards(&shards, 3000);
    let run = |name: &str, more: &[&str]| {
        let run = folder.path().join(name);
        let ran = train(&run, &[&[&*data(&shards), &*vocab(folder.path()), "--batch=8"], more].concat());
        (ran, run)
    };
    let (ran, path) = run("unknown", &["--steps=3"]);
    let said = ran.expect(0).stderr;
    assert!(said.contains("3000 shards with an unknown number of pairs, shard by shard;"), "{said}");
    assert!(said.contains("checked in 8 of the 3000 shards"), "{said}");
    let config = std::fs::read_to_string(path.join("config.toml")).unwrap();
    assert!(config.contains("order = \"shards\"") && config.contains("streams = 1"), "{config}");
    let opened = std::fs::read_to_string(path.join("shards.tsv")).unwrap();
    assert!((8..=48).contains(&opened.lines().count()), "two groups at most, {}", opened.lines().count());
    assert!(opened.lines().all(|line| line.starts_with("4\t")), "{opened}");
    let said = run("epochs", &["--epochs=0.01"]).0.expect(1).stderr;
    assert!(said.contains("the length of an epoch is unknown") && said.contains("--samples"), "{said}");
    let sizes: Vec<String> = (0..3000).map(|number| format!("\"{number:06}.tar\": 4")).collect();
    std::fs::write(shards.join("sizes.json"), format!("{{{}}}", sizes.join(", "))).unwrap();
    let (ran, path) = run("known", &["--epochs=0.002"]);
    let said = ran.expect(0).stderr;
    assert!(said.contains("12000 pairs (by sizes.json) in 3000 shards") && said.contains("3 steps from 0"), "{said}");
    let metrics = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!((last["epoch"].as_f64().unwrap() - 24.0 / 12_000.0).abs() < 1e-3, "{metrics}");
}

/// The largest resident size of a process so far, in MiB.
fn peak_memory(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// As many shards as a large public data set has. `cargo test --release --test cli -- --ignored --nocapture 231` prints
/// both.
#[test]
#[ignore = "writes 231,000 files: run it by `cargo test --release --test cli -- --ignored --nocapture 231`"]
fn a_run_on_231_000_shards_starts_in_ten_seconds_and_300_mb() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    many_shards(&shards, 231_000);
    let pattern = format!("--data={}/{{000000..230999}}.tar", shards.display());
    for (name, data) in [("folder", data(&shards)), ("braces", pattern)] {
        let run = folder.path().join(name);
        let args = train_args(&run, &[&data, &vocab(folder.path()), "--batch=8", "--steps=1000000"]);
        let begun = Instant::now();
        let mut child = start_until(&args, &run.join("metrics.jsonl"));
        while std::fs::metadata(run.join("metrics.jsonl")).unwrap().len() == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let first = begun.elapsed();
        std::thread::sleep(Duration::from_secs(5));
        let peak = peak_memory(&child).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        println!("{name}: first step after {first:.1?}, {peak} MiB at most");
        assert!(first < Duration::from_secs(10) && peak < 300, "{name}: {first:?}, {peak} MiB");
    }
}
