//! `--log-format` and `FLIPK_LOG`.

use serde_json::Value;

use crate::harness::{command, flipk, train, train_args};

/// Each line of `text` as a JSON object.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn json_lines_have_level_text_and_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let ran = train(&run, &["--log-format=json", "--steps=2", "--batch=1"]).expect(0);
    let lines = objects(&ran.stderr);
    for line in &lines {
        let has = |key: &str| line[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("timestamp") && has("level") && has("message"), "{line}");
    }
    let of = |level: &str, text: &str| {
        lines.iter().find(|line| line["level"] == level && line["message"].as_str().unwrap().contains(text))
    };
    assert!(of("INFO", "run folder: ").is_some(), "{}", ran.stderr);
    let warning = of("WARN", "a batch of 1 has no negative pairs").expect("a warning");
    assert!(!warning["message"].as_str().unwrap().contains("warning"), "{warning}");
    let step = of("INFO", "step 2/2").expect("metrics");
    assert_eq!((&step["step"], &step["steps"], &step["skipped"]), (&2.into(), &2.into(), &0.into()), "{step}");
    assert!(step["loss"].is_f64() && step["samples_per_second"].is_f64() && step["seconds_left"] == 0, "{step}");
    // What is printed on standard output is the result, and stays as it is.
    assert!(ran.stdout.contains("final loss"), "{}", ran.stdout);

    let failed = flipk(&["eval", "retrieval", "--log-format=json", &folder.path().join("none").display().to_string()]);
    let lines = objects(&failed.expect(1).stderr);
    assert!(lines.iter().any(|line| line["level"] == "ERROR"), "{lines:?}");
}

#[test]
fn the_variable_selects_lines() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, filter: &str| {
        let args = train_args(&folder.path().join(name), &["--steps=2"]);
        let ran = command().args(args).env("FLIPK_LOG", filter).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, all) = run("debug", "debug");
    assert_eq!(code, Some(0), "{all}");
    assert!(all.contains("debug: opened a shard shard=embedded:noto samples="), "{all}");
    assert!(all.contains("debug: saved a checkpoint path="), "{all}");
    assert!(all.contains("\nrun folder: "), "{all}");
    assert_eq!(run("quiet", "error"), (Some(0), String::new()));
    let (code, refused) = run("wrong", "verbose");
    assert_eq!(code, Some(2));
    assert!(refused.starts_with("error: FLIPK_LOG=verbose is not a filter: "), "{refused}");
    assert!(!folder.path().join("wrong").exists());
}
