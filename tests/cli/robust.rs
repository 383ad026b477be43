//! Divergence, full disks and broken samples.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{
    FLIPK, checkpoint, ended, flipk, hear_signals, json, number_in, tensors, train, train_args, wait_for,
};
use crate::pack;
use crate::watch::signal;

#[test]
fn a_diverged_run_names_step_samples_and_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // The warm-up's first step has rate 0, so that one checkpoint is good.
    let ran = train(&run, &["--steps=20", "--save-every=1", "--lr=1e30", "--warmup-samples=32"]).expect(1);
    let message = &ran.stderr[ran.stderr.find("error: ").unwrap()..];
    assert!(message.contains("training has diverged") && message.contains("embedded:noto:"), "{message}");
    let report = json(&run.join("diverged.json"));
    assert_eq!(report["samples"].as_array().unwrap().len(), 32);
    let step = report["step"].as_u64().unwrap();
    let last = message.split("last good checkpoint is ").nth(1).unwrap();
    // The newest one, of the step before, has the weights that gave this loss.
    let good = checkpoint(&run, step - 2);
    assert!(last.starts_with(&*good.to_string_lossy()) && good.exists() && last.contains("--lr"), "{message}");
    assert!(!checkpoint(&run, step).exists(), "the step that failed is not saved");
}

/// A file-size limit stands in for a full disk: the write of a checkpoint fails half-way, smaller files go through.
#[test]
fn a_full_disk_loses_no_earlier_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&run, &["--steps=4", "--save-every=2"]).expect(0);
    let before = tensors(&checkpoint(&run, 4));
    // `ulimit` counts KiB. Without the trap the signal would end the program before the write can fail.
    let limited = format!("trap '' XFSZ; ulimit -f 400; exec {FLIPK} train --resume={} --steps=8", run.display());
    let ran = Command::new("bash").args(["-c", &limited]).output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("training continues, next attempt at step 8"), "{stderr}");
    assert!(stderr.contains("error: cannot write"), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 2, "no half-written file stays: {left:?}");
    assert!(tensors(&checkpoint(&run, 4)) == before);
    // With room again, the run continues.
    flipk(&["train", &format!("--resume={}", run.display())]).expect(0);
    assert!(checkpoint(&run, 8).exists());
}

/// An image of 20 x 20 pixels that differs by `seed`.
pub fn png(seed: u8) -> Vec<u8> {
    let pixels =
        image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([x as u8 * 12, y as u8 * 12, seed.wrapping_mul(5)]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// 40 samples. The first `broken` of them have, in turn, a broken image, no caption, and a caption in invalid UTF-8.
fn archive(broken: usize) -> Vec<u8> {
    let mut archive = Vec::new();
    for number in 0..40 {
        let kind = if number < broken { number % 3 } else { 3 };
        let image = png(number as u8);
        let image = if kind == 0 { &image[..40] } else { &image[..] };
        pack::append(&mut archive, format!("{number:03}.png"), image);
        if kind != 1 {
            let caption: &[u8] = if kind == 2 { b"bad \xff" } else { b"a good one" };
            pack::append(&mut archive, format!("{number:03}.txt"), caption);
        }
    }
    pack::finish(&mut archive);
    archive
}

#[test]
fn broken_samples_are_skipped_and_counted_and_too_many_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("shard.tar");
    let vocab = folder.path().join("vocab.txt");
    std::fs::write(&vocab, "[PAD]\n[UNK]\na\ngood\none\n").unwrap();
    let flags = [format!("--data={}", shard.display()), format!("--tokenizer={}", vocab.display())];
    let run = |name: &str| train(&folder.path().join(name), &[&flags[0], &flags[1], "--epochs=4"]);
    let whole = archive(3);
    std::fs::write(&shard, &whole).unwrap();
    let ran = run("few").expect(0);
    assert!(ran.stderr.contains("shard.tar:000: bad image"), "{}", ran.stderr);
    let summary = json(&folder.path().join("few/summary.json"));
    for kind in ["bad_image", "missing_caption", "non_utf8_caption"] {
        assert!(summary["skipped"][kind].as_u64().unwrap() >= 3, "{summary}");
    }
    assert!(summary["zero_shot_top1"].is_null(), "nothing was held out");
    // Cut inside the last sample, which is one more broken sample.
    std::fs::write(&shard, &whole[..whole.len() - 3000]).unwrap();
    let ran = run("cut").expect(0);
    assert!(ran.stderr.contains("truncated member"), "{}", ran.stderr);
    std::fs::write(&shard, archive(6)).unwrap();
    let ran = run("many").expect(1);
    assert!(ran.stderr.contains("too many broken samples in") && ran.stderr.contains("shard.tar"), "{}", ran.stderr);
    std::fs::write(&shard, b"").unwrap();
    let ran = run("empty").expect(1);
    assert!(ran.stderr.contains("shard.tar"), "{}", ran.stderr);
}

/// Neither a full disk behind a run's log nor a closed pipe ends the run.
#[test]
fn a_run_goes_on_where_its_log_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = |run: &std::path::Path, stderr: Stdio| {
        let mut command = Command::new(FLIPK);
        command.args(train_args(run, &["--steps=2"])).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let status = command.status().unwrap();
        assert!(status.success() && run.join("summary.json").exists(), "{status}");
    };
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    quiet(&folder.path().join("full"), full.into());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    quiet(&folder.path().join("gone"), writer.into());
}

/// As `nohup` does for a run that outlives its terminal.
#[test]
fn a_signal_that_is_ignored_does_not_stop_a_run() {
    let folder = tempfile::tempdir().unwrap();
    for (trap, completes) in [("trap '' HUP", true), (":", false)] {
        let run = folder.path().join(if completes { "ignored" } else { "heard" });
        let args = train_args(&run, &["--steps=40", "--save-every=1", "--keep=100"]);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{trap}; exec \"$0\" \"$@\""), FLIPK]).args(&args);
        hear_signals(&mut command);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !checkpoint(&run, 1).exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let hung_up = Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
        assert!(hung_up.success() && ended(child).code == Some(0));
        assert_eq!(run.join("summary.json").exists(), completes);
    }
}

/// `timeout` signals its child, and then the child's process group.
#[test]
fn a_signal_that_comes_twice_at_once_saves_and_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = Command::new(FLIPK);
    command.args(train_args(&run, &["--steps=1000000", "--save-every=3"])).stdin(Stdio::null());
    hear_signals(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&checkpoint(&run, 3), &mut child);
    signal(child.id() as i32, libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(5));
    // Until `ended` waits for it, the process is there, if only as a zombie.
    signal(child.id() as i32, libc::SIGTERM);
    let ran = ended(child).expect(0);
    assert!(checkpoint(&run, number_in(&ran.stdout, "stopped after step ", ";")).exists());
}
