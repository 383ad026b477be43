//! `flipk profile`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::harness::{SMALL, flipk, json};

#[test]
fn a_step_is_profiled_layer_by_layer_on_every_device() {
    let folder = tempfile::tempdir().unwrap();
    for (device, recompute) in [("cpu", "none"), ("emulator", "blocks")] {
        let file = |name: &str| folder.path().join(format!("{device}-{name}"));
        let small = SMALL.iter().filter(|arg| !arg.contains("eval-data") && !arg.contains("log-every"));
        let options = ["json", "trace", "picture"].map(|name| format!("--{name}={}", file(name).display()));
        let (device_option, recompute_option) = (format!("--device={device}"), format!("--recompute={recompute}"));
        let mut args = vec![
            "profile",
            "--profile-steps=2",
            "--profile-seconds=1",
            "--group=op",
            &device_option,
            &recompute_option,
        ];
        args.extend(small);
        args.extend(options.iter().map(String::as_str));
        let ran = flipk(&args).expect(0);
        assert_eq!(ran.stdout.contains("MB moved"), device == "emulator", "{}", ran.stdout);
        assert_eq!(json(&file("json")).get("kernels").is_some(), device == "emulator");
        assert!(ran.stdout.contains("attention backward") && ran.stdout.contains("of limit"), "{}", ran.stdout);
        assert_eq!(ran.stdout.contains("linear recompute"), recompute == "blocks", "{}", ran.stdout);
        let profile = json(&file("json"));
        for key in ["samples_per_second", "step_seconds", "model_flops_per_sample", "model_flop_utilisation"] {
            assert!(profile[key].as_f64().unwrap() > 0.0, "{key} on {device}");
        }
        assert!(profile["peak_memory_bytes"].as_u64().unwrap() > 1000);
        assert!(profile["device"].as_str().unwrap().contains(if device == "cpu" { "cpu" } else { "emulated" }));
        let scopes = profile["scopes"].as_array().unwrap();
        let sum: f64 = scopes.iter().map(|scope| scope["seconds"].as_f64().unwrap()).sum();
        // The time that emulation itself takes is of no interest.
        for key in ["training_step_seconds", "first_step_seconds"] {
            assert_eq!(profile[key].as_f64().is_some_and(|seconds| seconds > 0.0), device == "cpu", "{key}");
        }
        let trained = profile["training_steps"].as_f64().zip(profile["training_step_seconds"].as_f64());
        assert_eq!(trained.is_some_and(|(steps, seconds)| steps * seconds >= 1.0), device == "cpu");
        // Of the CPU; the emulator's are assumed.
        assert_eq!(profile["ceilings"]["sustained_flops_per_second"].as_f64().is_some(), device == "cpu");
        assert_eq!(ran.stdout.contains("sustained"), device == "cpu", "{}", ran.stdout);
        assert_eq!(ran.stdout.contains("step as trained: "), device == "cpu", "{}", ran.stdout);
        assert!((sum - profile["step_seconds"].as_f64().unwrap()).abs() < 1e-9);
        assert!(scopes.iter().any(|scope| scope["scope"] == "vision/block_00/attention" && scope["op"] == "attention"));
        assert!(!json(&file("trace"))["traceEvents"].as_array().unwrap().is_empty());
        assert!(std::fs::read_to_string(file("picture")).unwrap().contains("</svg>"));
    }
    let [before, after] = ["cpu-json", "emulator-json"].map(|name| folder.path().join(name).display().to_string());
    let model_work = [&before, &after].map(|file| json(Path::new(file))["model_flops_per_sample"].clone());
    assert_eq!(model_work[0], model_work[1], "recomputation is not model work");
    let ran = flipk(&["profile", "--compare", &before, &after]).expect(0);
    assert!(
        ran.stdout.contains("moved before, MB") && ran.stdout.contains("vision/block_00 forward"),
        "{}",
        ran.stdout
    );
    let [fit, more] = ["none", "blocks"].map(|mode| flipk(&["profile", "--fit", "--recompute", mode]).expect(0).stdout);
    assert!(fit.contains("141 GB") && fit.lines().count() == 13, "{fit}");
    let batches = |table: &str| -> Vec<usize> {
        table.lines().skip(1).flat_map(|line| line.split_whitespace().skip(2).map(|n| n.parse().unwrap())).collect()
    };
    let least = batches(&fit).into_iter().zip(batches(&more)).map(|(fit, more)| more as f64 / fit as f64);
    assert!(least.fold(f64::INFINITY, f64::min) > 4.0, "{fit}{more}");
    let ran = flipk(&["profile", "--json=/nowhere/step.json"]).expect(1);
    assert!(ran.stderr.contains("cannot write /nowhere/step.json") && ran.stdout.is_empty(), "{}", ran.stderr);
    let ran = flipk(&["profile", "--device=cpu", "--group=kernel", "--batch=8"]).expect(1);
    assert!(ran.stderr.contains("--group kernel needs --device emulator"), "{}", ran.stderr);
    let ran = flipk(&["profile", "--compare", &after, &after, "--group=kernel"]).expect(0);
    assert!(ran.stdout.contains("layernorm_forward") && ran.stdout.contains("1.00"), "{}", ran.stdout);
    let ran = flipk(&["profile", "--compare", &before, &after, "--group=kernel"]).expect(1);
    assert!(ran.stderr.contains("kernels are counted only in emulation"), "{}", ran.stderr);
    let table = |file: &str| Command::new("tools/kernel_table.py").arg(file).output().unwrap();
    let said = [&after, "/nowhere", "Cargo.toml", &before].map(table);
    let (shown, kernels) = (String::from_utf8_lossy(&said[0].stdout), json(Path::new(&after))["kernels"].clone());
    assert_eq!(shown.lines().count(), 2 + kernels.as_array().unwrap().len(), "{shown}");
    for (said, problem) in said[1..].iter().zip(["cannot read /nowhere", "is no profile", "is no profile"]) {
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains(problem) && !text.contains("Traceback"), "{text}");
    }
    let ran = flipk(&["profile", "--compare", &before, "Cargo.toml"]).expect(1);
    assert!(ran.stderr.contains("Cargo.toml is neither a profile"), "{}", ran.stderr);
}

/// In emulation every op moves its operands and results, and at most a tenth more: partial sums, parameters that all
/// rows share, ends of sectors.
#[test]
fn no_op_moves_a_tenth_more_than_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step.json");
    let to = format!("--json={}", file.display());
    // Two widths, several blocks, and more pairs than one tile of logits has.
    let vision = ["--vision-layers=2", "--vision-width=256"];
    let text = ["--text-layers=2", "--text-width=192", "--text-heads=3"];
    let run =
        ["profile", "--device=emulator", "--group=kernel", "--data=embedded:noto", "--model=tiny", "--batch=144", &to];
    let ran = flipk(&[&run[..], &["--profile-steps=1"], &vision, &text].concat()).expect(0);
    let kernels = json(&file)["kernels"].as_array().unwrap().clone();
    for kernel in &kernels {
        let (name, number) = (kernel["kernel"].as_str().unwrap(), |key: &str| kernel[key].as_u64().unwrap());
        let line = ran.stdout.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
        assert!(line.split_whitespace().nth(1) == Some(&number("launches").to_string()), "{name}: {}", ran.stdout);
        assert!(number("blocks") >= number("launches") && number("warp_instructions") > 0, "{kernel}");
    }
    assert!(kernels.iter().any(|kernel| kernel["kernel"] == "adamw_update" && kernel["launches"] == 1), "{kernels:?}");
    let (mut ops, mut wrong) = (BTreeSet::new(), Vec::new());
    for scope in json(&file)["scopes"].as_array().unwrap() {
        let text = |key: &str| scope[key].as_str().unwrap();
        let (op, least) = (format!("{} {}", text("op"), text("direction")), scope["bytes"].as_u64().unwrap());
        // The upload has no minimum.
        if least == 0 {
            continue;
        }
        let allowed = match op.as_str() {
            // One row per text: the partial sums of gamma and beta are more than a tenth of so few rows.
            "layernorm backward" if text("scope") == "text/final_norm" => 0.99..=1.2,
            // The f16 halves of both sides are written by a separate pass and read back; they stay in L2, as do the
            // partial sums of the column tiles (backwards).
            "contrastive forward" => 1.0..=2.4,
            "contrastive backward" => 1.0..=3.9,
            // Repeated tokens, such as padding, are read once.
            "embedding forward" => 0.5..=1.1,
            _ => 0.99..=1.1,
        };
        let share = scope["moved_bytes"].as_u64().unwrap() as f64 / least as f64;
        if !allowed.contains(&share) {
            wrong.push(format!("{} {op}: {share:.3} of the least", text("scope")));
        }
        ops.insert(op);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(ops.len(), 22, "every op both ways, but for the gather, and the update: {ops:?}");
}

#[test]
fn results_of_the_op_benches_are_compared_unless_devices_differ() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, device: &str, seconds: f64| {
        let work = flipk::autograd::Work { flops: 0, bytes: 1000 };
        let ceilings = flipk::profile::Ceilings::ESTIMATED;
        let row = |op: &str, seconds| {
            flipk::profile::BenchRow::new(op.to_owned(), "8x98".to_owned(), work, seconds, &ceilings)
        };
        let found = flipk::profile::Benches {
            device: device.to_owned(),
            batch: [("b16".to_owned(), 8)].into(),
            commit: Some(name.to_owned()),
            date: "2026-01-31".to_owned(),
            inputs: "medians".to_owned(),
            ceilings,
            rows: vec![row("add", 1e-6), row("gelu", seconds)],
            left_out: vec![],
        };
        let file = folder.path().join(name).display().to_string();
        std::fs::write(&file, serde_json::to_string(&found).unwrap()).unwrap();
        file
    };
    let (before, after, other) = (save("old", "cpu", 1e-6), save("new", "cpu", 4e-6), save("other", "gpu", 4e-6));
    let ran = flipk(&["profile", "--compare", &before, &after]).expect(0);
    assert!(
        ran.stdout.contains("0.500 times faster") && ran.stdout.contains("gelu 8x98: 300 % longer"),
        "{}",
        ran.stdout
    );
    let ran = flipk(&["profile", "--compare", &before, &other]).expect(1);
    assert!(
        ran.stderr.contains("one was measured on `cpu`, the other on `gpu`") && ran.stdout.is_empty(),
        "{}",
        ran.stderr
    );
}
