//! Mistakes of a user: each gives exit code 1 or 2 and an error that says what to do.

use crate::harness::{SMALL, command, flipk, flipk_with, train};

#[test]
fn mistakes_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let out = format!("--out={}", path("run"));
    let config = path("config.toml");
    std::fs::write(&config, "mask_ration = 0.5\n").unwrap();
    let missing = format!("--data={}", path("shards/{000..003}.tar"));
    let cases: [(&[&str], i32, &[&str]); 23] = [
        (
            &["train", "--config", &config],
            1,
            &["config.toml", "unknown key `mask_ration`", "did you mean `mask_ratio`"],
        ),
        (&["train", "--mask-ration=0.5"], 2, &["--mask-ration", "--mask-ratio"]),
        (&["train", "--mask-ratio=1"], 1, &["--mask-ratio 1 is invalid", "0 <= ratio < 1"]),
        // The data comes first, but no server is asked for it.
        (&["train", &missing], 1, &["4 of the 4 shards", "cannot be read"]),
        (&["train", "--data=s3://flipk-none/*.tar"], 1, &["--data needs a --tokenizer"]),
        (&["train", "--data=Cargo.toml"], 1, &["--data needs a --tokenizer"]),
        (&["train", "--data=Cargo.toml", "--tokenizer=Cargo.toml"], 1, &["Cargo.toml", "[UNK]"]),
        (&["train", "--data=embedded:notto"], 1, &["embedded:notto", "embedded:noto"]),
        (&["train", "--steps=1", "--epochs=1"], 2, &["--steps", "--epochs"]),
        (&["train", "--time=5m", "--samples=1"], 2, &["--time", "--samples"]),
        (&["train", "--seed=18446744073709551615"], 1, &["--seed 18446744073709551615", "at most 9223372036854775807"]),
        (
            &["train", "--config", &config, "--samples=9223372036854775808"],
            1,
            &["--samples 9223372036854775808", "at most"],
        ),
        (&["train", "--time=5"], 1, &["--time 5 is invalid", "90s, 5m or 1h30m"]),
        (&["train", "--resume=/nowhere", "--time=5m"], 2, &["--resume", "--time"]),
        (&["train", "--resume=/nowhere"], 1, &["/nowhere is not a run folder"]),
        // A number that is out of range, not a flag.
        (&["train", "--color-jitter", "-1"], 1, &["--color-jitter -1 is invalid", "0 <= strength <= 1"]),
        (&["train", "--seed", "-1"], 2, &["invalid value '-1' for '--seed"]),
        (&["train", "--crop-min=0.9", "--crop-max=0.1"], 1, &["--crop-min, --crop-max (0.9, 0.1)"]),
        (&["train", "--lr=inf"], 1, &["--lr inf", "a number above 0"]),
        (&["train", "--prefetch=1000000000"], 1, &["--prefetch 1000000000", "at most"]),
        (&["train", "--weight=2::1"], 2, &["--weight", "not a number", "--weight 2 0.5"]),
        (&["data", "preview", "--out=sheet.jpg"], 1, &["a PNG file", "not sheet.jpg"]),
        (&["eval", "retrieval", "/nowhere"], 1, &["cannot open /nowhere"]),
    ];
    for (args, code, words) in cases {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain((args[0] == "train" && !args[1].starts_with("--resume")).then_some(out.as_str()))
            .collect();
        let ran = flipk(&args).expect(code);
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"));
    }
    assert!(!folder.path().join("run").exists(), "a run that cannot start leaves no folder");
}

/// A full disk behind `>` is an error; a closed pipe is not.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let info = |to: std::process::Stdio| {
        let output = command().arg("info").stdout(to).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, said) = info(full.into());
    assert!(code == Some(1) && said.contains("cannot write to standard output"), "{code:?} {said}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(info(writer.into()).0, Some(0));
}

#[test]
fn instruction_sets_are_named() {
    let ran = flipk_with("sse9", &["info"]).expect(1);
    assert!(ran.stderr.contains("FLIPK_CPU=sse9: it must be avx512, avx2 or portable"), "{}", ran.stderr);
    assert!(flipk_with("portable", &["info"]).expect(0).stdout.contains("used: portable"));
}

#[test]
fn missing_shards_and_captions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("vocab.txt");
    std::fs::write(&tokenizer, "[PAD]\n[UNK]\na\n").unwrap();
    let tokenizer = format!("--tokenizer={}", tokenizer.display());
    let missing = format!("--data={}/{{000..003}}.tar", folder.path().display());
    let ran = flipk(&["train", &missing, &tokenizer]).expect(1);
    assert!(ran.stderr.contains("4 of the 4 shards") && ran.stderr.contains("vocab.txt"), "{}", ran.stderr);
    let ran = flipk(&["train", "--data=embedded:noto", "--caption-key=titel"]).expect(1);
    assert!(ran.stderr.contains("the field `titel`") && ran.stderr.contains("caption"), "{}", ran.stderr);
}

#[test]
fn a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=1"]).expect(0);
    let ran = train(&run, &["--steps=1"]).expect(1);
    assert!(ran.stderr.contains("already contains a run") && ran.stderr.contains("--resume"), "{}", ran.stderr);
}

#[test]
fn help_teaches_and_flags_are_keys() {
    let help = flipk(&["train", "--help"]).expect(0).stdout;
    for flag in SMALL.iter().filter_map(|flag| flag.split('=').next()) {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("Examples:") && help.contains("--resume"));
    let info = flipk(&["info"]).expect(0).stdout;
    assert!(["version", "cpu", "gpu", "kernels"].iter().all(|row| info.contains(row)), "{info}");
}
