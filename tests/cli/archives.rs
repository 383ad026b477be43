//! Archives found in practice: odd names, damage, other files instead of archives.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Ran, checkpoint, ended, flipk, json, start_until, train_args};
use crate::pack;
use crate::place::Place;
use crate::robust::png;

impl Place {
    fn with_vocab() -> Self {
        let place = Self::new();
        place.file("vocab.txt", "[PAD]\n[UNK]\na\ngood\none\n");
        place
    }

    /// The arguments of `train` on `shards` into the folder `run`, with batches of 8.
    fn args(&self, run: &str, shards: &[&str], more: &[&str]) -> Vec<String> {
        let tokenizer = format!("--tokenizer={}", self.path("vocab.txt").display());
        train_args(&self.path(run), &[&["--batch=8", &tokenizer], more, &["--data"], shards].concat())
    }

    fn train_shards(&self, run: &str, shards: &[&str], more: &[&str]) -> Ran {
        flipk(&self.args(run, shards, more))
    }

    fn skipped(&self, run: &str) -> Value {
        json(&self.path(run).join("summary.json"))["skipped"].clone()
    }
}

/// A sample's members.
fn pair(archive: &mut Vec<u8>, name: &str, image: &[u8], caption: &[u8]) {
    pack::append(archive, format!("{name}.png"), image);
    pack::append(archive, format!("{name}.txt"), caption);
}

/// `count` good samples, named by `name`, without an end mark.
fn good(count: u8, name: impl Fn(u8) -> String) -> Vec<u8> {
    let mut archive = Vec::new();
    (0..count).for_each(|number| pair(&mut archive, &name(number), &png(number), b"a good one"));
    archive
}

fn finished(mut archive: Vec<u8>) -> Vec<u8> {
    pack::finish(&mut archive);
    archive
}

#[track_caller]
fn says(ran: &Ran, words: &[&str]) {
    let missing: Vec<_> = words.iter().filter(|word| !ran.stderr.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in\n{}", ran.stderr);
}

fn lacks(path: &Path) -> bool {
    !path.exists()
}

#[test]
fn names_with_dots_repeated_names_and_names_that_are_not_utf8() {
    let place = Place::with_vocab();
    let dots = place.file("dots.tar", finished(good(20, |n| format!("shot 2.{n} left"))));
    let ran = place.train_shards("dots", &[&dots], &["--steps=1"]).expect(0);
    says(&ran, &["1 pairs", "19 image members and 19 .txt members are not used", "first dot", "sample `shot 2`"]);

    let name = |n: u8| format!("{n:03}");
    let again = place.file("again.tar", finished([good(10, name), good(10, name)].concat()));
    let ran = place.train_shards("again", &[&again], &["--steps=1"]).expect(0);
    says(&ran, &["20 pairs", "duplicate names: 10 occur more than once"]);

    let mut bytes = Vec::new();
    for (name, image) in [(&b"caf\xE9"[..], &png(1)[..]), (b"caf\xE8", &png(2)), (b"caf\xEA", b"no image")] {
        pack::append(&mut bytes, [name, b".png"].concat(), image);
        pack::append(&mut bytes, [name, b".txt"].concat(), b"a good one");
    }
    let latin = place.file("latin.tar", finished(bytes));
    let ran = place.train_shards("latin", &[&latin], &["--steps=2", "--max-bad=0.5"]).expect(0);
    says(&ran, &["3 pairs", r"latin.tar:caf\xEA: bad image"]);
}

#[test]
fn other_views_are_not_used_as_images() {
    let place = Place::with_vocab();
    let mut archive = Vec::new();
    for number in 0..8 {
        pack::append(&mut archive, format!("{number}.depth.png"), b"no picture");
        pack::append(&mut archive, format!("{number}.orig.txt"), b"caf\xE9");
        pack::append(&mut archive, format!("{number}.boxes.json"), b"[1, 2]");
        pack::append(&mut archive, format!("{number}.json"), br#"{"caption": "a good one"}"#);
        pair(&mut archive, &number.to_string(), &png(number), b"a good one");
    }
    let shard = place.file("views.tar", finished(archive));
    let ran = place.train_shards("run", &[&shard], &["--steps=2", "--max-bad=0"]).expect(0);
    let said = ["views.tar", "skipped", "not used"].iter().any(|word| ran.stderr.contains(word));
    assert!(ran.stderr.contains("8 pairs") && !said, "{}", ran.stderr);
    assert_eq!(place.skipped("run"), serde_json::json!({}));
}

#[test]
fn archives_that_end_early_late_or_in_the_middle() {
    let place = Place::with_vocab();
    let name = |n: u8| format!("{n:03}");
    let members = good(20, name);
    let cut = place.file("cut.tar", &members);
    let ran = place.train_shards("cut", &[&cut], &["--steps=1"]).expect(0);
    says(&ran, &["20 pairs", "cut.tar: it has no end mark", "after `019.txt` is missing"]);

    let mut broken = finished(members.clone());
    let at = good(6, name).len();
    broken[at..at + 512].fill(0xFF);
    let broken = place.file("broken.tar", broken);
    let ran = place.train_shards("broken", &[&broken], &["--epochs=3"]).expect(0);
    says(&ran, &["20 pairs", "are lost", "broken.tar:006: truncated member: the archive is damaged next to it"]);
    assert!(place.skipped("broken")["truncated_member"].as_u64() >= Some(2));

    // The rest is lost: its samples are estimated from its size, and count for --max-bad.
    let mut half = members.clone();
    half[at..].fill(0xFF);
    let half = place.file("half.tar", half);
    let ran = place.train_shards("half", &[&half], &["--steps=1"]).expect(1);
    says(&ran, &["the rest of the archive", "14 x lost sample", "larger --max-bad"]);
    place.train_shards("patient", &[&half], &["--steps=1", "--max-bad=0.8"]).expect(0);
    assert_eq!(place.skipped("patient")["lost_sample"], 14);
    // The second shard of the pack begins within the damaged one, which is counted once.
    let out = format!("--out={}", place.path("pack").display());
    let packed = flipk(&["data", "pack", &half, &out, "--shard-samples=4", "--json"]).expect(0);
    let packed: Value = serde_json::from_str(&packed.stdout).unwrap();
    assert_eq!((&packed["samples"], &packed["lost"]), (&6.into(), &14.into()));

    let other = finished(good(20, |n| format!("other{n}")));
    let joined = place.file("joined.tar", [finished(members), other].concat());
    says(&place.train_shards("joined", &[&joined], &["--steps=1"]).expect(0), &["40 pairs"]);
}

#[test]
fn samples_are_judged_by_their_share_and_not_by_their_place() {
    let place = Place::with_vocab();
    let mut first = Vec::new();
    (0..36).for_each(|n| pair(&mut first, &format!("0{n:02}"), &png(n), b" \r\n"));
    first.extend((0..10).flat_map(|part| good(40, |n| format!("1{part}{n:03}"))));
    let first = place.file("first.tar", finished(first));
    // As many steps as there are good samples for.
    let ran = place.train_shards("first", &[&first], &["--steps=50"]).expect(0);
    says(&ran, &["436 pairs", "empty caption", "further samples are counted, not named (empty caption)"]);
    assert!((30..=36).contains(&place.skipped("first")["empty_caption"].as_u64().unwrap()));

    // A bad shard among good ones is a warning. A bad data set ends the run, with advice on how to continue.
    let mut dirty = good(8, |n| format!("x{n}"));
    (0..12).for_each(|n| pair(&mut dirty, &format!("y{n:02}"), b"<html>", b"a good one"));
    let dirty = place.file("dirty.tar", finished(dirty));
    let clean =
        place.file("clean.tar", finished((0..5).flat_map(|part| good(40, |n| format!("{part}{n:03}"))).collect()));
    let ran = place.train_shards("mixed", &[&clean, &dirty], &["--epochs=2"]).expect(0);
    says(&ran, &["many samples of", "dirty.tar are broken", "of 20 so far"]);
    let ran = place.train_shards("dirty", &[&dirty], &["--epochs=2"]).expect(1);
    says(&ran, &["too many broken samples in", "dirty.tar", "larger --max-bad", "--resume"]);
    assert!(lacks(&place.path("dirty/summary.json")));
}

#[test]
fn counts_are_of_what_was_used_and_evaluation_names_what_it_skips() {
    let place = Place::with_vocab();
    let mut archive = good(38, |n| format!("{n:03}"));
    for name in ["x", "y"] {
        pair(&mut archive, name, b"not a picture", b"a good one");
    }
    let shard = place.file("a.tar", finished(archive));
    for (run, prefetch, threads) in [("near", 1, 1), ("far", 30, 3)] {
        let ahead = [format!("--prefetch={prefetch}"), format!("--loader-threads={threads}"), "--steps=9".to_owned()];
        let ahead: Vec<&str> = ahead.iter().map(String::as_str).collect();
        place.train_shards(run, &[&shard], &ahead).expect(0);
    }
    let (near, far) = (place.skipped("near"), place.skipped("far"));
    assert_eq!(near, far);
    assert!((2..=4).contains(&near["bad_image"].as_u64().unwrap()), "two in each epoch of which 72 are used: {near}");
    let run = place.path("near").display().to_string();
    let ran = flipk(&["eval", "retrieval", &run, "--device=cpu", "--data", &shard]).expect(0);
    says(&ran, &["a.tar:x: bad image", "a.tar:y: bad image", "skipped: 2 x bad image"]);
}

#[test]
fn a_shard_that_is_shortened_ends_the_run_with_its_name_and_a_checkpoint() {
    let place = Place::with_vocab();
    // Too large for the cache of decoded images.
    let picture = {
        let pixels = image::RgbImage::from_fn(1200, 1200, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let mut archive = Vec::new();
    (0..150).for_each(|n| pair(&mut archive, &format!("{n:03}"), &picture, b"a good one"));
    let shard = place.file("shrinks.tar", finished(archive));
    let first = checkpoint(&place.path("run"), 2);
    let child = start_until(&place.args("run", &[&shard], &["--steps=100000", "--save-every=2"]), &first);
    std::fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(100_000).unwrap();
    let ran = ended(child).expect(75);
    says(&ran, &["error: cannot read", "shrinks.tar", "has 100000 now", "continue from there"]);
}

#[test]
fn files_that_are_not_archives_are_named() {
    let place = Place::with_vocab();
    let good = place.file("good.tar", finished(good(8, |n| format!("{n}"))));
    for (name, bytes, word) in [
        ("list.tar", &b"url,caption\nhttp://x,a cat\n"[..], "CSV"),
        ("x.tar.bz2", b"BZh91AY&SY", "bzip2"),
        ("page.tar", b"<html><head><title>403 Forbidden</title></head>", "an HTML page (`403 Forbidden`)"),
        ("weights.pt", b"PK\x03\x04....archive/data.pkl", "PyTorch"),
    ] {
        let path = place.file(name, bytes);
        says(&place.train_shards("run", &[&path], &[]).expect(1), &[name, "is not a tar archive", word]);
    }
    let damaged = place.file("x.tar.zst", b"\x28\xB5\x2F\xFD....");
    says(&place.train_shards("run", &[&damaged], &[]).expect(1), &["nothing of", "x.tar.zst can be unpacked (zstd: "]);
    let (page, empty) = (place.path("page.tar").display().to_string(), place.file("empty.tar", b""));
    let ran = place.train_shards("run", &[&good, &page, &empty], &[]).expect(1);
    says(&ran, &["2 of the 3 shards cannot be used", "leave them out", "403 Forbidden", "empty.tar", "0 bytes"]);
    // A command may succeed another time.
    for (spec, word, code) in [
        ("hdfs://host/{000..127}.tar", "hdfs:// addresses are not read", 1),
        ("pipe:cat none.tar", "the command failed (exit status: 1): cat: none.tar", 75),
    ] {
        says(&place.train_shards("run", &[spec], &[]).expect(code), &[spec, word]);
    }
    assert!(lacks(&place.path("run")), "a run that cannot start leaves no folder");
}

/// Members that exist but cannot be used are not reported as missing.
#[test]
fn an_archive_without_a_usable_member_says_why() {
    let work = Place::with_vocab();
    let mut links = Vec::new();
    for number in 0..4 {
        pack::append(&mut links, format!("{number}.txt"), b"a good one");
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    let mut links = tar::Builder::new(links);
    links.append_link(&mut header, "0.png", "../0.png").unwrap();
    let links = work.file("links.tar", links.into_inner().unwrap());
    says(&work.train_shards("links", &[&links], &[]).expect(1), &["no images", "0.png is a link to ../0.png"]);
    let mut hidden = Vec::new();
    pair(&mut hidden, ".0", &png(0), b"a good one");
    let hidden = work.file("hidden.tar", finished(hidden));
    says(&work.train_shards("hidden", &[&hidden], &[]).expect(1), &["only names that are hidden", "`.0.png`"]);
}

/// A shard in a folder that is left out, or taken twice, is a warning.
#[test]
fn shards_that_are_left_out_or_come_twice_are_reported() {
    let place = Place::with_vocab();
    let shards = place.path("shards");
    let given = |name: &str| place.path(name).display().to_string();
    std::fs::create_dir_all(shards.join("more")).unwrap();
    std::fs::write(shards.join("a.tar"), finished(good(8, |number| format!("a{number}")))).unwrap();
    std::fs::write(shards.join("B.TAR"), finished(good(8, |number| format!("b{number}")))).unwrap();
    std::fs::write(shards.join("more/c.tar"), finished(good(8, |number| format!("c{number}")))).unwrap();
    let ran = place.train_shards("folder", &[&given("shards")], &["--epochs=1"]).expect(0);
    says(&ran, &["16 pairs", "shards in 1 of the subfolders of", "are not used", "/**/*.tar"]);
    let ran = place
        .train_shards("twice", &[&given("shards/a.tar"), &given("shards/../shards/a.tar")], &["--epochs=1"])
        .expect(0);
    says(&ran, &["16 pairs", "1 of the 2 shards is in the list more than once", "is the same file as"]);
    std::fs::write(shards.join("d.tar.zst"), b"\x28\xB5\x2F\xFD and more").unwrap();
    says(&place.train_shards("zst", &[&given("shards")], &[]).expect(1), &["d.tar.zst can be unpacked (zstd"]);
    // The files of a sample lie in one folder.
    let mut apart = Vec::new();
    for number in 0..4 {
        pack::append(&mut apart, format!("images/{number}.png"), &png(number));
        pack::append(&mut apart, format!("texts/{number}.txt"), b"a good one");
    }
    let apart = place.file("apart.tar", finished(apart));
    let ran = place.train_shards("apart", &[&apart], &[]).expect(1);
    says(&ran, &["\"images/0\" an image and \"texts/0\" a caption", "the same path in the archive"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused() {
    let place = Place::with_vocab();
    let pipe = place.path("pipe.tar");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    says(
        &place.train_shards("run", &[&pipe.display().to_string()], &[]).expect(1),
        &["pipe.tar", "not a regular file"],
    );
}
