//! Which samples are used, and how often: weights and filters, as a user writes them.

use std::path::Path;

use crate::harness::{checkpoint, flipk, json, start_until, tensors, train, train_args};
use crate::pack;
use crate::robust::png;
use crate::shards::{shard, vocab};

/// Two folders of shards, killed in the middle of the third epoch of five. OpenCLIP's spelling is the same run.
#[test]
fn a_killed_run_with_weights_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    for (path, count) in [(&a, 12), (&b, 30)] {
        std::fs::create_dir(path).unwrap();
        (0..count).for_each(|n| shard(&path.join(format!("{n:03}.tar")), n, 2 + n % 3, n % 9 == 0));
    }
    let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
    let vocab = vocab(folder.path());
    let [data, weight] = [[a.display().to_string(), b.display().to_string()], ["2".to_owned(), "0.5".to_owned()]];
    let common = [&*vocab, "--order=shards", "--streams=2", "--batch=8", "--steps=60"];
    let spelled =
        [format!("--data={}", data.join("::")), format!("--train-data-upsampling-factors={}", weight.join("::"))];
    let said =
        train(&whole, &[&common[..], &[&spelled[0], &spelled[1]], &["--save-every=0"]].concat()).expect(0).stderr;
    assert!(said.contains("an epoch has 39 visits of shards"), "{said}");
    let more = ["--save-every=5", "--data", &data[0], &data[1], "--weight", &weight[0], &weight[1]];
    let mut args = train_args(&killed, &[&common[..], &["--data=x"], &more[..1]].concat());
    args.retain(|arg| arg != "--data=x");
    args.extend(more[1..].iter().map(|arg| (*arg).to_owned()));
    let mut child = start_until(&args, &checkpoint(&killed, 40));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    let resume = format!("--resume={}", killed.display());
    let ran = flipk(&["train", &resume, "--weight", "1", "1"]).expect(1);
    assert!(ran.stderr.contains("--weight is not what the run"), "{}", ran.stderr);
    flipk(&["train", &resume, "--threads=1", "--loader-threads=3"]).expect(0);
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&killed, 60)));
    let config = std::fs::read_to_string(killed.join("config.toml")).unwrap();
    assert!(config.contains("weight = [2.0, 0.5]") || config.contains("weight = [\n    2.0,\n    0.5,\n]"), "{config}");
}

#[test]
fn an_epoch_of_weighted_samples_has_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let flags = ["--data=embedded:noto::embedded:twemoji", "--epochs=0.1", "--eval-data=embedded:fluent"];
    let said = train(&run, &[&flags[..], &["--train-data-upsampling-factors=0.5::2"]].concat()).expect(0).stderr;
    let words = said.split("an epoch has ").nth(1).unwrap();
    let visits: f64 = words.split(' ').next().unwrap().parse().unwrap();
    let samples = json(&run.join("summary.json"))["samples"].as_f64().unwrap();
    assert!(samples >= 0.1 * visits && samples < 0.1 * visits + 32.0, "{samples} of {visits}");
    for (flag, words) in [
        ("--weight=2", "data has 2 sources, and each needs one weight"),
        ("--train-data-upsampling-factors=2:1", "write numbers, as in 2::1"),
    ] {
        let ran = train(&folder.path().join("no"), &[&flags[..], &[flag]].concat()).expect(1);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert!(!folder.path().join("no").exists());
    }
}

/// A shard of 12 samples with a width of 100, 200 or 300, one of which has a damaged record.
fn with_records(path: &Path, number: usize) {
    let mut archive = Vec::new();
    for sample in 0..12 {
        let caption = format!("a word {}", (number + sample) % 10);
        let record = match sample {
            5 => "{".to_owned(),
            _ => format!(r#"{{"caption": "{caption}", "size": {{"width": {}}}}}"#, 100 * (1 + sample % 3)),
        };
        pack::append(&mut archive, format!("{sample}.png"), &png((number * 12 + sample) as u8));
        pack::append(&mut archive, format!("{sample}.json"), record.as_bytes());
    }
    pack::finish(&mut archive);
    std::fs::write(path, archive).unwrap();
}

#[test]
fn a_killed_run_on_a_part_of_the_samples_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    (0..40).for_each(|number| with_records(&shards.join(format!("{number:03}.tar")), number));
    let [whole, killed, other] = ["whole", "killed", "other"].map(|name| folder.path().join(name));
    let data = format!("--data={}", shards.display());
    let vocab = vocab(folder.path());
    let common = [&*data, &vocab, "--order=shards", "--batch=8", "--steps=60", "--max-bad=0.5"];
    let filter = "--where=size.width >= 200";
    let said = train(&whole, &[&common[..], &[filter, "--save-every=0"]].concat()).expect(0).stderr;
    // Seven of the eleven that can be read.
    assert!(said.contains("56 of 88 samples looked at pass --where size.width >= 200"), "{said}");
    let mut child = start_until(
        &train_args(&killed, &[&common[..], &[filter, "--save-every=5"]].concat()),
        &checkpoint(&killed, 40),
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!checkpoint(&killed, 60).exists(), "it was to be killed on the way");
    let resume = format!("--resume={}", killed.display());
    let ran = flipk(&["train", &resume, "--where=size.width > 100"]).expect(1);
    assert!(ran.stderr.contains("the training data differs"), "{}", ran.stderr);
    flipk(&["train", &resume, "--loader-threads=3"]).expect(0);
    assert!(tensors(&checkpoint(&whole, 60)) == tensors(&checkpoint(&killed, 60)));
    // 60 batches of 8 are more than one pass over 40 shards of 7 samples that pass and one that is broken.
    let skipped = &json(&whole.join("summary.json"))["skipped"]["bad_record"];
    assert!((40..=80).contains(&skipped.as_u64().unwrap()), "{skipped}");
    let counts = std::fs::read_to_string(whole.join("shards.tsv")).unwrap();
    assert!(counts.lines().count() == 40 && counts.lines().all(|line| line.starts_with("8\t")), "{counts}");
    let [epochs, cache] = ["--epochs=1".to_owned(), format!("--index-cache={}", whole.display())];
    let said = train(&other, &[&common[..4], &[filter, "--max-bad=0.5", &epochs, &cache]].concat()).expect(0).stderr;
    assert!(said.contains("320 pairs (by the index cache) in 40 shards"), "{said}");
    let eval = ["eval", "retrieval", &*whole.display().to_string(), "--max-bad=0.5"].map(str::to_owned);
    let more = ["--json".to_owned(), data, "--where=size.width = 300".to_owned()];
    let ran = flipk(&[&eval[..], &more].concat()).expect(0);
    assert!(ran.stderr.contains("120 of 440 samples looked at pass"), "{}", ran.stderr);
}

#[test]
fn filters_that_cannot_be_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("a.tar");
    with_records(&shard, 0);
    let (run, data, vocab) = (folder.path().join("run"), format!("--data={}", shard.display()), vocab(folder.path()));
    for (flag, code, words) in [
        ("--where=size.width >", 2, "column 13: expected a field or a value, and found the end"),
        ("--where=width > 100", 1, "none of 11 samples has `width`; the fields there are: caption, size"),
        ("--where=size.width > 300", 1, "none of the 11 samples of"),
    ] {
        let ran = train(&run, &[&data, &vocab, flag, "--steps=1"]).expect(code);
        assert!(ran.stderr.contains(words) && !run.exists(), "{}", ran.stderr);
    }
    let config = folder.path().join("own.toml");
    std::fs::write(&config, "where = \"size.width ~ 3\"").unwrap();
    let ran = train(&run, &[&data, &vocab, &format!("--config={}", config.display())]).expect(1);
    assert!(ran.stderr.contains("column 12: `~` cannot stand here"), "{}", ran.stderr);
}

#[test]
fn captions_come_from_several_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let mut archive = Vec::new();
    for sample in 0..40 {
        let record = format!(r#"{{"caption": "a word {}", "alt_text": "a word"}}"#, sample % 10);
        pack::append(&mut archive, format!("{sample}.png"), &png(sample as u8));
        pack::append(&mut archive, format!("{sample}.json"), record.as_bytes());
    }
    pack::finish(&mut archive);
    std::fs::write(&path, archive).unwrap();
    let (data, vocab) = (format!("--data={}", path.display()), vocab(folder.path()));
    let run = |name: &str, flags: &[&str]| {
        let run = folder.path().join(name);
        let ran = train(&run, &[&[&*data, &vocab, "--batch=8", "--steps=4"], flags].concat());
        (ran, run)
    };
    let (ran, both) = run("both", &["--caption-key=caption:0.7,alt_text:0.3"]);
    let said = ran.expect(0).stderr;
    assert!(said.contains("captions: 80 in 40 of 40 samples (one at each visit)"), "{said}");
    let (ran, one) = run("one", &["--caption-key=caption"]);
    ran.expect(0);
    assert!(tensors(&checkpoint(&both, 4)) != tensors(&checkpoint(&one, 4)));
    let written = std::fs::read_to_string(both.join("config.toml")).unwrap();
    assert!(written.contains("caption_key = \"caption:0.7,alt_text:0.3\""), "{written}");
    for (flags, words) in [
        (&["--caption-key=caption:0.7,alt_text"][..], "either all fields have a probability, or none"),
        (&["--json-text-key=caption;alt", "--json-text-key-probs=0.7;0.3"], "--caption-key caption:0.7,alt:0.3"),
        (&["--json-text-key", "caption"], "--caption-key caption"),
        (&["--caption-key=titel,text"], "looked for the field `titel` of the .json member or the field `text`"),
    ] {
        let (ran, path) = run("no", flags);
        let said = ran.expect(1).stderr;
        assert!(said.contains(words) && !path.exists(), "{said}");
    }
}

/// The size of the data is unknown, so `--epochs` needs `--epoch-samples`.
#[test]
fn drawn_shards_resume_to_the_bit_and_an_epoch_is_what_the_user_says() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    (0..40).for_each(|n| shard(&shards.join(format!("{n:03}.tar")), n, 2 + n % 3, false));
    let data = format!("--data={}", shards.display());
    let vocab = vocab(folder.path());
    let common = [&*data, &vocab, "--order=shards", "--batch=8", "--epochs=1.5"];
    let run = |name: &str, flags: &[&str]| {
        let run = folder.path().join(name);
        (train(&run, &[&common[..], flags].concat()), run)
    };
    let said = run("no", &[]).0.expect(1).stderr;
    assert!(said.contains("--epoch-samples"), "{said}");
    let (ran, plain) = run("plain", &["--epoch-samples=160"]);
    ran.expect(0);
    let (ran, drawn) = run("drawn", &["--train-num-samples=160", "--dataset-resampled"]);
    let said = ran.expect(0).stderr;
    assert!(said.contains("an epoch has 40 visits of shards, drawn with replacement"), "{said}");
    assert!(tensors(&checkpoint(&plain, 30)) != tensors(&checkpoint(&drawn, 30)));
    let metrics = std::fs::read_to_string(drawn.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!((last["step"].as_u64(), last["epoch"].as_f64()), (Some(30), Some(1.5)));
    let (ran, again) = run("again", &["--epoch-samples=160", "--resample", "--save-every=13", "--keep=5"]);
    ran.expect(0);
    std::fs::remove_file(checkpoint(&again, 30)).unwrap();
    let resume = format!("--resume={}", again.display());
    let ran = flipk(&["train", &resume, "--resample=false"]).expect(1);
    assert!(ran.stderr.contains("--resample is not what the run"), "{}", ran.stderr);
    let ran = flipk(&["train", &resume, "--loader-threads=3"]).expect(0);
    assert!(ran.stderr.contains("4 of 30 steps") || ran.stderr.contains("30 steps from 26"), "{}", ran.stderr);
    assert!(tensors(&checkpoint(&drawn, 30)) == tensors(&checkpoint(&again, 30)));
}
