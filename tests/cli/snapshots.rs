//! What the program prints, so that its English can be read in one place: `tests/cli/snapshots/*.snap`. Paths are shown as
//! `[FOLDER]`.
//!
//! After a text has changed: `INSTA_UPDATE=always cargo test --release --test cli snapshots::`, and read the diff.

use std::path::Path;

use insta::assert_snapshot;

use crate::harness::{Ran, command};
use crate::place::Place;

/// Runs the program in a terminal of a fixed width.
fn run(args: &[&str]) -> Ran {
    let output = command().args(args).env("COLUMNS", "100").env_remove("FLIPK_CPU").output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Ran { code: output.status.code(), stdout, stderr }
}

/// What a user sees: the command, its output, its errors, its exit code.
fn seen(folder: &Path, args: &[&str]) -> String {
    let Ran { code, stdout, stderr } = run(args);
    let words = args.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
    let code = code.map_or("none".to_owned(), |code| code.to_string());
    let text = format!("$ flipk {}\n{stdout}{stderr}exit code {code}\n", words.collect::<Vec<_>>().join(" "));
    let folder = folder.display().to_string();
    // With its slash, and without.
    let text = text.replace(&folder, "[FOLDER]").replace(folder.trim_end_matches('/'), "[FOLDER]");
    text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
}

#[test]
fn help() {
    let commands: [(&str, &[&str]); 8] = [
        ("help", &[]),
        ("help-train", &["train"]),
        ("help-eval", &["eval"]),
        ("help-eval-zero-shot", &["eval", "zero-shot"]),
        ("help-eval-retrieval", &["eval", "retrieval"]),
        ("help-verify", &["verify"]),
        ("help-profile", &["profile"]),
        ("help-info", &["info"]),
    ];
    for (name, words) in commands {
        assert_snapshot!(name, seen(Path::new("/nowhere"), &[words, &["--help"]].concat()));
    }
}

/// The mistakes of `mistakes.rs`.
#[test]
fn mistakes() {
    let place = Place::new();
    let config = place.file("config.toml", "mask_ration = 0.5\n");
    let tokenizer = format!("--tokenizer={}", place.file("vocab.txt", "[PAD]\n[UNK]\na\n"));
    let no_unknown = format!("--tokenizer={}", place.file("words.txt", "[PAD]\na\n"));
    let missing = format!("--data={}/{{000..003}}.tar", place.path("shards").display());
    let here = format!("--data={}/{{000..003}}.tar", place.path("").display());
    let broken: Vec<(&str, String)> = [
        ("list", "data = 'a.tar'"),
        ("number", "batch = -1"),
        ("section", "[train]\nlr = 1.0"),
        ("key", "zzz = 1"),
        ("flag", "device = 'cpu'"),
        ("both", "steps = 1\nepochs = 2"),
        ("syntax", "steps 1"),
    ]
    .map(|(name, text)| (name, place.file(&format!("{name}.toml"), text)))
    .to_vec();
    let cases: Vec<Vec<&str>> = vec![
        vec!["train", "--mask-ration=0.5"],
        vec!["train", "--mask-ratio=1"],
        vec!["train", &missing],
        vec!["train", &missing, &no_unknown],
        vec!["train", &missing, &tokenizer],
        vec!["train", &here, &tokenizer],
        vec!["train", "--data=embedded:notto"],
        vec!["train", "--data=embedded:noto", "--caption-key=titel"],
        vec!["train", "--data=s3://bucket/a.tar", &tokenizer],
        vec!["train", "--data={0..9}{0..9999999}.tar", &tokenizer],
        vec!["train", "--steps=1", "--epochs=1"],
        vec!["train", "--time=5m", "--samples=1"],
        vec!["train", "--time=5"],
        vec!["train", "--seed=18446744073709551615"],
        vec!["train", "--seed", "-1"],
        vec!["train", "--color-jitter", "-1"],
        vec!["train", "--crop-min=0.9", "--crop-max=0.1"],
        vec!["train", "--lr=inf"],
        vec!["train", "--vision-heads=7"],
        vec!["train", "--image-size=50"],
        vec!["train", "--vocab=100"],
        vec!["train", "--init-from=/nowhere"],
        vec!["train", "--resume=/nowhere"],
        vec!["train", "--resume=/nowhere", "--time=5m"],
        vec!["eval", "retrieval", "/nowhere"],
        vec!["verify", "/nowhere"],
        vec!["profile", "--json=/nowhere/step.json"],
        vec!["profile", "--device=cpu", "--group=kernel", "--batch=8"],
        vec!["profile", "--compare", "/nowhere", "/nowhere"],
    ];
    let out = format!("--out={}", place.path("run").display());
    let mut text = String::new();
    let configs = broken.iter().map(|(_, path)| path).chain([&config]).map(|path| vec!["train", "--config", path]);
    for mut args in cases.into_iter().chain(configs) {
        if args[0] == "train" && !args[1].starts_with("--resume") {
            args.push(&out);
        }
        text += &seen(&place.path(""), &args);
        text.push('\n');
    }
    assert_snapshot!("mistakes", text);
}
