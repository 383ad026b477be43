//! Mixtures of sources: weights, as a user writes them.

use crate::harness::{checkpoint, flipk, json, start_until, tensors, train, train_args};
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
