//! `--time`: runs whose length is a time.

use crate::harness::{checkpoint, flipk, json, tensors, train};

#[test]
fn a_run_for_a_time_repeats_and_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let [first, again] = ["a", "b"].map(|name| folder.path().join(name));
    let ran = train(&first, &["--time=2s", "--save-every=5", "--keep=1000"]).expect(0);
    assert!(ran.stderr.contains("--time 2s: "), "{}", ran.stderr);
    let config = std::fs::read_to_string(first.join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let samples = config["samples"].as_integer().unwrap();
    assert!(!config.contains_key("time") && samples % 32 == 0 && samples > 320, "{config}");
    assert_eq!(json(&first.join("summary.json"))["samples"], samples);
    let steps = samples as u64 / 32;
    let trained = tensors(&checkpoint(&first, steps));
    // Repeating it from its configuration needs no measurement.
    let (config, out) =
        (format!("--config={}", first.join("config.toml").display()), format!("--out={}", again.display()));
    let ran = flipk(&["train", &config, &out]).expect(0);
    assert!(!ran.stderr.contains("--time"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&again, steps)) == trained);
    // Neither does resuming it from the middle.
    for step in 6..=steps {
        let _ = std::fs::remove_file(checkpoint(&first, step));
    }
    let ran = flipk(&["train", &format!("--resume={}", first.display())]).expect(0);
    assert!(!ran.stderr.contains("--time") && !ran.stderr.contains("changed:"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&first, steps)) == trained);
}

#[test]
fn a_flag_overrides_the_time_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, run) = (folder.path().join("run.toml"), folder.path().join("run"));
    let config = format!("--config={}", file.display());
    std::fs::write(&file, "time = \"5m\"\n").unwrap();
    let ran = train(&run, &[&config, "--steps=2"]).expect(0);
    assert!(!ran.stderr.contains("--time"), "{}", ran.stderr);
    std::fs::write(&file, "time = \"5m\"\nepochs = 2\n").unwrap();
    let ran = train(&folder.path().join("other"), &[&config]).expect(1);
    assert!(ran.stderr.contains("epochs and time exclude each other"), "{}", ran.stderr);
    // The length of a run is fixed once it has started.
    let written = std::fs::read_to_string(run.join("config.toml")).unwrap();
    std::fs::write(run.join("config.toml"), written.replace("steps = 2", "time = \"1m\"")).unwrap();
    let ran = flipk(&["train", &format!("--resume={}", run.display())]).expect(1);
    assert!(ran.stderr.contains("the length of a run is fixed once it has started"), "{}", ran.stderr);
}
