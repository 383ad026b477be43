//! Resuming: after `kill -9`, after Ctrl-C, from damaged and older checkpoints, to the bit.

use std::process::Command;

use crate::harness::{
    SMALL, checkpoint, command, data_flags, ended, flipk, json, start_until, tensors, train, train_args,
};

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
    assert!(ran.stdout.contains("continue with: flipk train --resume"), "{}", ran.stdout);
    // Nor does it matter what the backward pass recomputes.
    let ran = flipk(&["train", &format!("--resume={}", stopped.display()), "--recompute=blocks"]).expect(0);
    assert!(!ran.stderr.contains("changed:"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&stopped, 60)));
}

#[test]
fn changes_are_reported_and_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=2", "--keep=1", "--save-every=1"]).expect(0);
    assert!(!checkpoint(&run, 1).exists() && checkpoint(&run, 2).exists(), "only the last one is kept");
    let resume = format!("--resume={}", run.display());
    let ran = flipk(&["train", &resume, "--steps=3"]).expect(0);
    assert!(ran.stderr.contains("changed: steps;"), "{}", ran.stderr);
    let ran = flipk(&["train", &resume, "--vision-layers=2"]).expect(1);
    assert!(ran.stderr.contains("the model's size differs") && ran.stderr.contains("--init-from"), "{}", ran.stderr);
    let ran = flipk(&["train", &resume, "--vision-layers=1", "--data=embedded:twemoji"]).expect(1);
    assert!(ran.stderr.contains("the training data differs"), "{}", ran.stderr);
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
    assert!(ran.stderr.contains("the loss differs"), "{}", ran.stderr);
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
    // The towers fit either loss.
    train(&tuned, &["--steps=1", &format!("--init-from={run}")]).expect(0);
    assert!(!tensors(&checkpoint(&tuned, 1)).contains_key("logit_bias"));
}

/// The newest checkpoint is truncated, changed, or empty, as a bad disk or an interrupted copy leaves it.
#[test]
fn a_damaged_newest_checkpoint_is_skipped_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=10", "--save-every=2"]).expect(0);
    let whole = tensors(&checkpoint(&run, 10));
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let bytes = std::fs::read(checkpoint(&run, 10)).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() - 100] ^= 1;
    let resume = format!("--resume={}", run.display());
    for (number, damaged) in [&bytes[..50_000], &changed, b""].into_iter().enumerate() {
        std::fs::write(checkpoint(&run, 10), damaged).unwrap();
        let evaluated = flipk(&["eval", "retrieval", &run.display().to_string(), "--data=embedded:twemoji"]);
        if number != 1 {
            // Another step would give another result, so evaluation does not choose one by itself.
            let said = evaluated.expect(1).stderr;
            assert!(said.contains("step-00000010") && said.contains("step-00000008.safetensors is intact"), "{said}");
        }
        let said = flipk(&["train", &resume]).expect(0).stderr;
        assert!(said.contains("warning: ") && said.contains("step-00000010"), "{said}");
        assert!(said.contains("resuming from the newest intact one") && said.contains("step-00000008"), "{said}");
        // The damaged file and the metrics after step 8 are kept, and the run ends with the same weights.
        let aside = run.join(format!("set-aside/{:03}", number + 1));
        assert_eq!(std::fs::read(aside.join("step-00000010.safetensors")).unwrap(), *damaged);
        let later: Vec<_> = metrics.lines().skip(8).collect();
        let logged = std::fs::read_to_string(aside.join("metrics.jsonl")).unwrap();
        if number == 0 {
            assert_eq!(logged.lines().collect::<Vec<_>>(), later);
        }
        assert_eq!(logged.lines().count(), 2);
        assert!(aside.join("summary.json").exists() && run.join("summary.json").exists());
        assert!(tensors(&checkpoint(&run, 10)) == whole);
    }
    // None is intact.
    for step in [6, 8, 10] {
        std::fs::write(checkpoint(&run, step), b"").unwrap();
    }
    let said = flipk(&["train", &resume]).expect(1).stderr;
    assert!(said.contains("no other checkpoint in the folder is intact"), "{said}");
}

#[test]
fn a_run_that_is_killed_in_its_last_evaluation_has_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = start_until(&train_args(&run, &["--steps=2"]), &checkpoint(&run, 2));
    child.kill().unwrap();
    child.wait().unwrap();
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(!metrics.contains("zero_shot_top1\":0.") && !run.join("summary.json").exists(), "{metrics}");
    flipk(&["train", &format!("--resume={}", run.display())]).expect(0);
    assert!(json(&run.join("summary.json"))["zero_shot_top1"].is_f64());
}

/// Run folders as a killed program, or a user, leaves them.
#[test]
fn a_run_folder_is_made_ready_before_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=2"]).expect(0);
    let resume = format!("--resume={}", run.display());
    let checkpoints = run.join("checkpoints");
    let left = [".tmpAbCdEf", "step-00000004.partial"].map(|name| checkpoints.join(name));
    left.iter().for_each(|path| std::fs::write(path, [0; 1000]).unwrap());
    flipk(&["train", &resume, "--steps=3"]).expect(0);
    assert!(left.iter().all(|path| !path.exists()) && checkpoint(&run, 3).exists());
    // What is missing from config.toml would become a default.
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    for kept in [0, config.len() / 2, config.find("lr = ").unwrap()] {
        let whole_lines = config[..kept].rfind('\n').map_or(0, |end| end + 1);
        std::fs::write(run.join("config.toml"), &config[..whole_lines]).unwrap();
        let said = flipk(&["train", &resume, "--steps=4"]).expect(1).stderr;
        assert!(said.contains("config.toml: it has no `") && said.contains("probably truncated"), "{said}");
    }
    std::fs::write(run.join("config.toml"), [0; 500]).unwrap();
    let said = flipk(&["train", &resume, "--steps=4"]).expect(1).stderr;
    assert!(said.contains("it holds 500 zero bytes and nothing else"), "{said}");
    std::fs::write(run.join("config.toml"), config).unwrap();
    // Without its checkpoints it starts over, and can write them.
    std::fs::remove_dir_all(&checkpoints).unwrap();
    flipk(&["train", &resume, "--steps=4"]).expect(0);
    assert!(checkpoint(&run, 4).exists());
    // Where they cannot be written, that is an error before the first step.
    std::fs::remove_dir_all(&checkpoints).unwrap();
    std::fs::write(&checkpoints, "no folder").unwrap();
    let ran = flipk(&["train", &resume, "--steps=5"]).expect(1);
    assert!(ran.stderr.contains("cannot create") && !ran.stderr.contains("step 1/"), "{}", ran.stderr);
}

#[test]
fn an_older_checkpoint_can_be_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=10", "--save-every=2", "--keep=5"]).expect(0);
    let (whole, metrics) =
        (tensors(&checkpoint(&run, 10)), std::fs::read_to_string(run.join("metrics.jsonl")).unwrap());
    let named = format!("--resume={}", checkpoint(&run, 4).display());
    let ran = flipk(&["train", &named, "--lr=5e-4", "--steps=7", "--keep=3"]).expect(0);
    assert!(ran.stderr.contains("moved what is later than step 4 to"), "{}", ran.stderr);
    assert!(ran.stderr.contains("changed: lr, steps;"), "{}", ran.stderr);
    let aside = run.join("set-aside/001");
    for step in [6, 8, 10] {
        assert!(aside.join(format!("step-{step:08}.safetensors")).exists());
    }
    assert!(tensors(&aside.join("step-00000010.safetensors")) == whole);
    // Checkpoints that were set aside do not count for --keep.
    let kept: Vec<bool> = (1..=10).map(|step| checkpoint(&run, step).exists()).collect();
    assert_eq!(kept, [false, false, false, true, false, true, true, false, false, false]);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let now = lines(&std::fs::read_to_string(run.join("metrics.jsonl")).unwrap());
    assert_eq!((now.len(), &now[..4]), (7, &lines(&metrics)[..4]));
    let moved = std::fs::read_to_string(aside.join("metrics.jsonl")).unwrap();
    assert_eq!(lines(&moved), lines(&metrics)[4..]);
    // The next resume continues the new branch.
    let said = flipk(&["train", &format!("--resume={}", run.display()), "--steps=8"]).expect(0).stderr;
    assert!(said.contains("8 steps from 7"), "{said}");
    let said = flipk(&["train", &format!("--resume={}", run.display()), "--steps=5"]).expect(1).stderr;
    assert!(said.contains("would end after 5 steps") && said.contains("is already at step 8"), "{said}");
    let copy = folder.path().join("copy.safetensors");
    std::fs::copy(checkpoint(&run, 8), &copy).unwrap();
    let said = flipk(&["train", &format!("--resume={}", copy.display())]).expect(1).stderr;
    assert!(said.contains("of a run folder") && said.contains("--init-from"), "{said}");
}

#[test]
fn latest_is_the_newest_run_of_the_default_folder() {
    let folder = tempfile::tempdir().unwrap();
    let flipk = |args: &[&str]| {
        let ran = command().args(args).current_dir(folder.path()).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, said) = flipk(&["train", "--resume=latest"]);
    assert!(code == Some(1) && said.contains("there is no run under runs/"), "{said}");
    let start = [&["train", "--steps=2"], SMALL].concat();
    for _ in 0..2 {
        assert_eq!(flipk(&start).0, Some(0));
    }
    let (code, said) = flipk(&["train", "--resume=latest", "--steps=3"]);
    assert!(code == Some(0) && said.contains("is runs/tiny-002"), "{said}");
    assert!(checkpoint(&folder.path().join("runs/tiny-002"), 3).exists());
}

#[test]
fn moved_data_is_accepted_and_another_tokenizer_or_preset_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [run, here, there] = ["run", "a.tar", "b.tar"].map(|name| folder.path().join(name));
    let [copy, other] = ["copy.txt", "other.txt"].map(|name| folder.path().join(name));
    let captions: Vec<String> = (0..12).map(|number| format!("number {number}")).collect();
    let [data, tokenizer] = data_flags(folder.path(), &captions, "number 1 2");
    std::fs::copy(folder.path().join("vocab.txt"), &copy).unwrap();
    std::fs::write(&other, "[PAD]\n[UNK]\nnumber\n1\n2\nnew\n").unwrap();
    train(&run, &[&data, &tokenizer, "--steps=2"]).expect(0);
    std::fs::rename(&here, &there).unwrap();
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let resume = flag("resume", &run);
    let said = flipk(&["train", &resume]).expect(1).stderr;
    assert!(said.contains("a.tar"), "{said}");
    let (data, vocab) = (flag("data", &there), flag("tokenizer", &copy));
    let said = flipk(&["train", &resume, "--steps=2", &data, &vocab, "--model=tiny", "--keep=3"]).expect(0).stderr;
    assert!(!said.contains("changed") && said.contains("training data has moved; its content is the same"), "{said}");
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("b.tar") && config.contains("copy.txt"), "{config}");
    // What is refused changes nothing.
    for (refused, flag) in [("--tokenizer", flag("tokenizer", &other)), ("--model", "--model=b16".to_owned())] {
        let said = flipk(&["train", &resume, &flag]).expect(1).stderr;
        assert!(said.contains(&format!("{refused} is not what the run")) && said.contains("--init-from"), "{said}");
        assert_eq!(std::fs::read_to_string(run.join("config.toml")).unwrap(), config);
    }
}

#[test]
fn a_finished_run_keeps_its_results_when_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=4", "--log-every=3"]).expect(0);
    let (before, metrics) = (json(&run.join("summary.json")), std::fs::read(run.join("metrics.jsonl")).unwrap());
    flipk(&["train", &format!("--resume={}", run.display())]).expect(0);
    let after = json(&run.join("summary.json"));
    for key in ["final_loss", "steps", "samples", "zero_shot_top1"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert!(after["samples_per_second"].as_f64().unwrap() > 0.0 && after["gflops"].as_f64().unwrap() > 0.0, "{after}");
    assert_eq!(std::fs::read(run.join("metrics.jsonl")).unwrap(), metrics);
    assert!(!run.join("set-aside").exists());
}

#[test]
fn one_process_at_a_time_trains_in_a_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = start_until(&train_args(&run, &["--steps=100000", "--save-every=0"]), &run.join("metrics.jsonl"));
    let said = flipk(&["train", &format!("--resume={}", run.display())]).expect(75).stderr;
    assert!(said.contains(&format!("another flipk (process {}) is training in", child.id())), "{said}");
    let said = train(&run, &["--steps=1"]).expect(75).stderr;
    assert!(said.contains("another flipk"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let said = flipk(&["train", &format!("--resume={}", run.display()), "--steps=1"]).expect(0).stderr;
    assert!(said.contains("has no checkpoint yet; the run starts over"), "{said}");
}
