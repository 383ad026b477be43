//! `flipk profile --ranks`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{SMALL, flipk, json as read};

/// The simulated steps of a file: ranks and efficiency.
fn steps(all: &Value) -> Vec<(u64, f64)> {
    let step = |step: &Value| (step["ranks"].as_u64().unwrap(), step["efficiency"].as_f64().unwrap());
    all["steps"].as_array().unwrap().iter().map(step).collect()
}

/// From a step that is profiled here, and then from the profile of it; the network that is written can be read.
#[test]
fn a_step_on_many_ranks_is_simulated() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let flag = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let small = SMALL.iter().copied().filter(|arg| !arg.contains("eval-data") && !arg.contains("log-every"));
    let small: Vec<&str> = ["profile", "--profile-steps=1"].into_iter().chain(small).collect();
    let (to, picture) = (flag("json", "scale.json"), flag("picture", "scale.svg"));
    let ran = flipk(&[&small[..], &["--ranks=1,2,4", &to, &picture]].concat()).expect(0);
    assert!(ran.stdout.starts_with("simulated, not measured: ") && ran.stdout.contains("local-mpi"), "{}", ran.stdout);
    assert!(ran.stdout.contains("4 ranks "), "{}", ran.stdout);
    assert!(fs::read_to_string(file("scale.svg")).unwrap().contains("</svg>"));
    let all = read(&file("scale.json"));
    let found = steps(&all);
    assert_eq!(found.iter().map(|step| step.0).collect::<Vec<_>>(), [1, 2, 4]);
    assert!((found[0].1 - 1.0).abs() < 1e-9 && found.iter().all(|step| step.1 > 0.0), "{found:?}");

    flipk(&[&small[..], &[&flag("json", "step.json")]].concat()).expect(0);
    let mut network = all["network"].clone();
    (network["within"], network["jitter"]) = (json!(1e15), json!(0));
    fs::write(file("network.json"), network.to_string()).unwrap();
    let (from, network) = (flag("from", "step.json"), flag("network", "network.json"));
    let faster = ["--ranks=2", "--batch=64", &from, &network, &to];
    let ran = flipk(&[&small[..], &faster].concat()).expect(0);
    assert!(ran.stdout.contains("scaled from batch 32") && ran.stdout.contains("step.json"), "{}", ran.stdout);
    assert_eq!(read(&file("scale.json"))["batch_of_a_rank"], 64);
}

/// The table of docs/performance.md.
#[test]
fn the_documented_table_is_what_is_simulated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scale.json");
    let (to, text) = (format!("--json={}", file.display()), fs::read_to_string("docs/performance.md").unwrap());
    for (model, ratio, ranks, batch) in [
        ("b16", "0.5", "8", "1024"),
        ("b16", "0.5", "256", "256"),
        ("b16", "0.75", "8", "1024"),
        ("b16", "0.75", "256", "256"),
        ("l16", "0.5", "8", "768"),
        ("l16", "0.5", "256", "256"),
        ("h14", "0.5", "8", "256"),
        ("h14", "0.5", "256", "256"),
    ] {
        let from = ["--from=benches/results/gpu-h200.json", "--model", model, "--mask-ratio", ratio];
        flipk(&[&["profile", "--ranks", ranks, "--batch", batch, &to], &from[..]].concat()).expect(0);
        let found = steps(&read(&file));
        let start = format!("| {model}, {ratio} | {ranks} x {batch} | {:.3} |", found[0].1);
        let row = text.lines().find(|row| row.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("docs/performance.md should say: {start}"));
        let documented: Vec<f64> =
            row.split('|').skip(5).filter_map(|number| number.trim().replace(',', "").parse().ok()).collect();
        let step = &read(&file)["steps"][0];
        let simulated = ["samples_per_second", "samples_per_second_and_rank"].map(|key| step[key].as_f64().unwrap());
        let close = |(documented, simulated): (&f64, &f64)| (documented / simulated - 1.0).abs() < 1e-3;
        assert!(documented.len() == 2 && documented.iter().zip(&simulated).all(close), "{row}: {simulated:?}");
    }
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    let record = "--from=benches/results/gpu-h200.json";
    for (args, problem) in [
        (&["--ranks=0", record][..], "--ranks must be from 1 to 65536"),
        (&["--ranks=8,99999999999999", record], "--ranks must be from 1 to 65536"),
        (
            &["--ranks=2", record, "--model=h14", "--mask-ratio=0.6"],
            "it has b16 at 0, b16 at 0.5, b16 at 0.75, l16 at 0.5",
        ),
        (&["--ranks=2", "--from=Cargo.toml"], "Cargo.toml: neither a profile that --json wrote"),
        (&["--ranks=2", "--from=/nowhere"], "cannot read /nowhere"),
        (&["--ranks=2", record, "--network=/nowhere"], "neither built in"),
        (&["--ranks=2", record, "--network=Cargo.toml"], "--network Cargo.toml: "),
        (&["--ranks=2", "--micro-batches=2"], "one micro-batch per rank"),
    ] {
        let ran = flipk(&[&["profile"], args].concat()).expect(1);
        assert!(ran.stderr.contains(problem) && ran.stdout.is_empty(), "{args:?}: {}", ran.stderr);
    }
    assert!(flipk(&["profile", record]).expect(2).stderr.contains("--ranks"));
}
