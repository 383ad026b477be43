//! What the program prints, so that its English can be read in one place: `tests/cli/snapshots/*.snap`. Paths are shown
//! as `[FOLDER]`, and numbers of tables as `#`.
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
    let commands: [(&str, &[&str]); 17] = [
        ("help", &[]),
        ("help-train", &["train"]),
        ("help-eval", &["eval"]),
        ("help-eval-zero-shot", &["eval", "zero-shot"]),
        ("help-eval-retrieval", &["eval", "retrieval"]),
        ("help-embed", &["embed"]),
        ("help-search", &["search"]),
        ("help-import", &["import"]),
        ("help-export", &["export"]),
        ("help-verify", &["verify"]),
        ("help-profile", &["profile"]),
        ("help-info", &["info"]),
        ("help-data", &["data"]),
        ("help-data-check", &["data", "check"]),
        ("help-data-pack", &["data", "pack"]),
        ("help-data-stat", &["data", "stat"]),
        ("help-data-preview", &["data", "preview"]),
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
    let found = format!("--data={config}");
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
        vec!["train", &found],
        vec!["train", &found, &no_unknown],
        vec!["train", &missing, &tokenizer],
        vec!["train", &here, &tokenizer],
        vec!["train", "--data=embedded:notto"],
        vec!["train", "--data=embedded:noto", "--caption-key=titel"],
        vec!["train", "--data=hdfs://host/a.tar", &tokenizer],
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

/// `text` with what may differ between machines and compilers masked: numbers that stand alone become `#`, names of
/// bottlenecks `[LIMIT]`, and columns are two spaces apart. Titles of columns, in the first line, and the exit code
/// stay.
fn masked(text: &str) -> String {
    const LIMITS: [&str; 5] = ["memory", "compute", "issue", "shared memory", "tensor cores"];
    let line = |(number, line): (usize, &str)| {
        let stays = number == 0 || line.starts_with("exit code");
        let cell = |cell: &str| match cell {
            _ if stays => cell.to_owned(),
            _ if LIMITS.contains(&cell) => "[LIMIT]".to_owned(),
            _ => without_numbers(cell),
        };
        let cells = line.split("  ").map(str::trim).filter(|text| !text.is_empty()).map(cell);
        let indent = if line.starts_with(' ') { "  " } else { "" };
        format!("{indent}{}\n", cells.collect::<Vec<_>>().join("  "))
    };
    text.lines().enumerate().map(line).collect()
}

/// `text` with `#` for each number that is not part of a name: `-1.50 ms` is `# ms`, `block_00` and `b16` stay.
fn without_numbers(text: &str) -> String {
    let (mut masked, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let starts_word = !masked.ends_with(|c: char| c.is_alphanumeric() || "_-".contains(c));
        let unsigned = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        if starts_word && unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            let after = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            masked.push('#');
            rest = after;
        } else {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    masked
}

#[test]
fn only_numbers_are_masked() {
    let text = "            24 GB    step  slowest
block_00     1.20   3.0 %   memory
fit b16: -3 ms (+4.5 %), nvcc 13.0.88  memory: 1 MiB
exit code 0";
    let expected = "  24 GB  step  slowest
block_00  #  # %  [LIMIT]
fit b16: # ms (# %), nvcc #  memory: # MiB
exit code 0
";
    assert_eq!(masked(text), expected);
}

/// The tables of evaluations and of profiles, for a small model after one step.
#[test]
fn tables() {
    let place = Place::new();
    place.train("run", &["--steps=1", "--device=cpu"]).expect(0);
    let [run, before] = ["run", "before.json"].map(|name| place.path(name).display().to_string());
    let json = format!("--json={before}");
    let cpu = ["profile", &run, "--device=cpu", "--threads=2", "--profile-steps=1"];
    let emulator = ["profile", &run, "--device=emulator", "--threads=2", "--profile-steps=1"];
    let cases: [(&str, &[&str]); 7] = [
        ("eval-zero-shot", &["eval", "zero-shot", &run, "--device=cpu"]),
        ("eval-retrieval", &["eval", "retrieval", &run, "--device=cpu"]),
        ("profile-cpu", &cpu),
        ("profile-emulator-op", &[&emulator[..], &["--group=op", &json]].concat()),
        ("profile-emulator-kernel", &[&emulator[..], &["--group=kernel"]].concat()),
        ("profile-compare", &["profile", "--compare", &before, &before]),
        ("profile-fit", &["profile", "--fit"]),
    ];
    for (name, args) in cases {
        // The command is shown as it is.
        let text = seen(&place.path(""), args);
        let (command, output) = text.split_once('\n').unwrap();
        assert_snapshot!(name, format!("{command}\n{}", masked(output)));
    }
}

/// The machine's own values are masked, and the nvcc that compiled the kernels.
#[test]
fn info() {
    let line = |line: &str| match line.split_whitespace().next() {
        Some("cpu") => line.replace(flipk::device::isa::processor(), "[CPU]"),
        Some("features") => "features  [FEATURES]; used: [FEATURE]".to_owned(),
        Some("gpu") => "gpu  [GPU]".to_owned(),
        _ => line.to_owned(),
    };
    let text: Vec<String> = seen(Path::new("/nowhere"), &["info"]).lines().map(line).collect();
    assert_snapshot!("info", masked(&text.join("\n")));
}
