//! `flipk data`: checks and packs, of whole, damaged and interrupted data.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{FLIPK, Ran, command, ended, flipk, json, start_until};
use crate::place::Place;

/// The words are those of `vocab`.
const CAPTIONS: [&str; 3] = ["a red square", "a blue one", "a square"];

fn vocab(place: &Place) -> String {
    place.file("vocab.txt", "[PAD]\n[UNK]\na\nred\nblue\none\nsquare\n")
}

/// Shards of `count` samples each. Returns their pattern.
fn shards(place: &Place, shards: usize, count: u8) -> String {
    fs::create_dir_all(place.path("in")).unwrap();
    for shard in 0..shards {
        let texts: Vec<[(&str, &str); 1]> = (0..count).map(|n| [("txt", CAPTIONS[usize::from(n) % 3])]).collect();
        let samples: Vec<(u8, &[(&str, &str)])> = texts.iter().enumerate().map(|(n, t)| (n as u8, &t[..])).collect();
        place.shard(&format!("in/{shard:02}.tar"), &samples);
    }
    place.path("in").display().to_string()
}

/// Every file of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().display().to_string(), fs::read(&path).unwrap())).collect()
}

/// The members of a packed shard behind its index.
fn members(shard: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert!(shard.starts_with(b"__index__\0"));
    let mut archive = tar::Archive::new(shard);
    let read = |entry: Result<tar::Entry<'_, &[u8]>, _>| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (entry.path().unwrap().display().to_string(), data)
    };
    archive.entries().unwrap().map(read).skip(1).collect()
}

/// The shards of a pack as earlier versions wrote them, without an index.
fn without_index(pack: &Path, out: &Path) {
    fs::create_dir(out).unwrap();
    for (name, bytes) in files(pack).into_iter().filter(|(name, _)| name.ends_with(".tar")) {
        let size = std::str::from_utf8(&bytes[124..135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap().next_multiple_of(512);
        fs::write(out.join(name), &bytes[512 + size..]).unwrap();
    }
}

fn pack(place: &Place, data: &str, out: &str, more: &[&str]) -> Ran {
    let out = format!("--out={}", place.path(out).display());
    flipk(&[&["data", "pack", data, &out, "--size=16"], more].concat())
}

#[test]
fn a_check_finds_what_is_broken_and_says_so_in_its_exit_code() {
    let place = Place::new();
    let data = shards(&place, 3, 4);
    let tokenizer = format!("--tokenizer={}", vocab(&place));
    let good = flipk(&["data", "check", &data, &tokenizer]).expect(0);
    assert!(good.stdout.contains("samples  12") && !good.stdout.contains("bad image"), "{}", good.stdout);
    // An empty shard, one that is cut within a sample, and one with an image that is none.
    place.file("in/03.tar", "");
    let whole = fs::read(place.path("in/01.tar")).unwrap();
    place.file("in/01.tar", &whole[..whole.len() - 3000]);
    let mut archive = Vec::new();
    crate::pack::append(&mut archive, "x.jpg", b"<html>404</html>");
    crate::pack::append(&mut archive, "x.txt", b"a square");
    crate::pack::finish(&mut archive);
    place.file("in/04.tar", archive);
    let ran = flipk(&["data", "check", &data]).expect(1);
    for words in ["04.tar:x: bad image: it is an HTML page", "01.tar:003: truncated member", "unusable shard", "03.tar"]
    {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let short = flipk(&["data", "check", &data, "--list=1"]).expect(1);
    assert!(short.stdout.contains("more of these (--list shows more"), "{}", short.stdout);
    let report: serde_json::Value =
        serde_json::from_str(&flipk(&["data", "check", &data, "--json"]).expect(1).stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &report["unusable_shards"], &report["broken"]["bad_image"]), (3, &1.into(), &1.into()));
    assert_eq!((&findings[2]["key"], &findings[2]["kind"]), (&"x".into(), &"bad_image".into()));
    flipk(&["data", "check"]).expect(2);
    fs::create_dir(place.path("empty")).unwrap();
    let empty = flipk(&["data", "check", &place.path("empty").display().to_string()]).expect(1);
    assert!(empty.stderr.contains("the folder") && empty.stderr.contains("is empty"), "{}", empty.stderr);
}

#[test]
fn a_pack_has_the_same_samples_in_the_same_order_for_any_number_of_threads() {
    let place = Place::new();
    let data = shards(&place, 3, 7);
    for (form, flags) in [("jpg", &["--quality=95"][..]), ("rgb", &["--raw"]), ("rgb", &["--raw", "--shuffle"])] {
        let mut packs = Vec::new();
        for threads in ["1", "3"] {
            let out = place.path(threads);
            let args = ["data", "pack", &data, "--size=16", "--shard-samples=5", "--out", out.to_str().unwrap()];
            let ran = command().args(args).args(flags).env("RAYON_NUM_THREADS", threads).status().unwrap();
            assert!(ran.success());
            packs.push(files(&out));
            fs::remove_dir_all(out).unwrap();
        }
        assert!(packs[0] == packs[1], "{flags:?}");
        let pack = &packs[0];
        let sizes: BTreeMap<String, u64> = serde_json::from_slice(&pack["sizes.json"]).unwrap();
        let names = ["000000.tar", "000001.tar", "000002.tar", "000003.tar", "000004.tar"];
        let expected: Vec<(String, u64)> = names.into_iter().map(str::to_owned).zip([5, 5, 5, 5, 1]).collect();
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), expected);
        let all: Vec<(String, Vec<u8>)> = names.iter().flat_map(|name| members(&pack[*name])).collect();
        assert_eq!(all.len(), 2 * 21);
        let mut keys = Vec::new();
        for pair in all.chunks(2) {
            let key = pair[0].0.strip_suffix(&format!(".{form}")).unwrap();
            assert_eq!(pair[1].0, format!("{key}.txt"));
            let number: usize = key[..3].parse().unwrap();
            assert_eq!(pair[1].1, CAPTIONS[number % 3].as_bytes());
            if form == "jpg" {
                let image = image::load_from_memory(&pair[0].1).unwrap();
                assert_eq!((image.width(), image.height()), (16, 16));
            }
            keys.push(number);
        }
        let in_order: Vec<usize> = (0..21).map(|n| n % 7).collect();
        assert_eq!(keys == in_order, !flags.contains(&"--shuffle"), "{keys:?}");
        keys.sort_unstable();
        assert_eq!(keys, (0..21).map(|n| n / 3).collect::<Vec<_>>());
    }
}

#[test]
fn training_on_a_pack_repeats_to_the_bit() {
    let place = Place::new();
    let (data, tokenizer) = (shards(&place, 3, 7), format!("--tokenizer={}", vocab(&place)));
    for (name, flags) in [("jpg", &[][..]), ("raw", &["--raw", "--filter=bicubic"])] {
        let mut losses = Vec::new();
        for order in ["global", "shards"] {
            for again in ["a", "b", "old"] {
                let out = format!("{name}-{order}-{again}");
                match again {
                    "old" => without_index(&place.path(&format!("{name}-{order}-a")), &place.path(&out)),
                    _ => drop(pack(&place, &data, &out, flags).expect(0)),
                }
                let run = format!("run-{out}");
                let from = format!("--data={}", place.path(&out).display());
                let order = format!("--order={order}");
                place.train(&run, &[&from, &tokenizer, &order, "--steps=6", "--batch=4", "--max-bad=0"]).expect(0);
                losses.push(json(&place.path(&run).join("summary.json"))["final_loss"].as_f64().unwrap());
            }
        }
        let [global, shards] = [&losses[..3], &losses[3..]];
        let all_equal = |losses: &[f64]| losses.iter().all(|loss| *loss == losses[0]);
        assert!(all_equal(global) && all_equal(shards) && global[0] != shards[0], "{losses:?}");
        let checked = flipk(&["data", "check", &place.path(&format!("{name}-global-a")).display().to_string()]);
        assert!(checked.expect(0).stdout.contains("good     21"));
    }
}

#[test]
fn training_on_stored_tokens_repeats_to_the_bit() {
    let place = Place::new();
    let data = shards(&place, 2, 6);
    let tokenizer = format!("--tokenizer={}", vocab(&place));
    let other = format!("--tokenizer={}", place.file("other.txt", "[PAD]\n[UNK]\na\nblue\nred\none\nsquare\n"));
    pack(&place, &data, "plain", &["--raw"]).expect(0);
    let tokens = ["--raw", "--tokens", &tokenizer];
    pack(&place, &data, "tokens", &tokens).expect(0);
    let shard = fs::read(place.path("tokens/000000.tar")).unwrap();
    let names: Vec<String> = members(&shard).into_iter().take(3).map(|(name, _)| name).collect();
    assert_eq!(names, ["000.rgb", "000.txt", "000.tokens"]);
    let train = |tokenizer: &str, said: &str| {
        let losses = ["plain", "tokens"].map(|from| {
            let data = format!("--data={}", place.path(from).display());
            let run = format!("run-{from}-{}", said.len());
            let flags = [&data, tokenizer, "--steps=6", "--batch=4", "--max-bad=0", "--context=2"];
            let ran = place.train(&run, &flags).expect(0);
            assert_eq!(ran.stderr.contains(said), from == "tokens", "{}", ran.stderr);
            json(&place.path(&run).join("summary.json"))["final_loss"].as_f64().unwrap()
        });
        assert!(losses[0] == losses[1], "{losses:?}");
    };
    train(&tokenizer, "; their tokens are stored");
    train(&other, "; stored tokens are another tokenizer's, and are not used");
    let refused = pack(&place, &data, "tokens", &["--raw", "--tokens", &other]).expect(1);
    assert!(refused.stderr.contains("a pack with --tokens (tokenizer: "), "{}", refused.stderr);
    pack(&place, &data, "new", &["--tokens"]).expect(2);
    let alone = pack(&place, &data, "new", &[&tokenizer]).expect(1);
    assert!(alone.stderr.contains("--tokenizer has no effect without --tokens"), "{}", alone.stderr);
}

/// Whatever an interrupted call has left, the next one makes of it what an uninterrupted one writes.
#[test]
fn a_pack_goes_on_after_the_last_whole_shard() {
    let place = Place::new();
    let data = shards(&place, 3, 7);
    for flags in [&["--shard-samples=4"][..], &["--shard-samples=4", "--shuffle", "--seed=3"], &["--shard-size=9kB"]] {
        pack(&place, &data, "whole", flags).expect(0);
        let whole = files(&place.path("whole"));
        let journal = String::from_utf8(whole["pack.jsonl"].clone()).unwrap();
        let lines: Vec<&str> = journal.lines().collect();
        assert!(lines.len() > 4, "{journal}");
        for kept in 0..lines.len() {
            for rest in ["", "{\"shard\": \"0000", "\n"] {
                fs::remove_file(place.path("whole/sizes.json")).unwrap();
                for name in whole.keys().filter(|name| name.ends_with(".tar")) {
                    let number: usize = name[..6].parse().unwrap();
                    // The next shard may have its name already, and the one after it none yet.
                    match number.cmp(&(kept + 1)) {
                        std::cmp::Ordering::Less => {}
                        _ => fs::remove_file(place.path("whole").join(name)).unwrap(),
                    }
                }
                place.file("whole/000009.tar.part", "rest");
                let head = lines[..=kept].iter().map(|line| format!("{line}\n")).collect::<String>();
                place.file("whole/pack.jsonl", head + rest);
                pack(&place, &data, "whole", flags).expect(0);
                assert!(files(&place.path("whole")) == whole, "{flags:?}, {kept} shards kept");
            }
        }
        let again = pack(&place, &data, "whole", flags).expect(0);
        assert!(again.stdout.contains("shards that were there"), "{}", again.stdout);
        fs::remove_dir_all(place.path("whole")).unwrap();
    }
}

#[test]
fn a_folder_with_something_else_is_refused() {
    let place = Place::new();
    let data = shards(&place, 2, 4);
    let refused = |out: &str, flags: &[&str], words: &str| {
        let ran = pack(&place, &data, out, flags).expect(1);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    };
    refused("in", &[], "it holds 0");
    place.file("file", "");
    refused("file", &[], "file: it is a file; give a folder");
    pack(&place, &data, "out", &[]).expect(0);
    refused(
        "out",
        &["--quality=80"],
        "it has a pack with --quality=90, and this command has --quality=80; give the same options",
    );
    let mut shard = fs::read(place.path("out/000000.tar")).unwrap();
    shard[700] ^= 1;
    place.file("out/000000.tar", &shard);
    refused("out", &[], "000000.tar has changed since it was written (its checksum is wrong); pack into a new folder");
    place.file("out/000000.tar", "short");
    refused("out", &[], "000000.tar has 5 bytes instead of");
    place.shard("in/01.tar", &[(1, &[("txt", "a square")])]);
    refused("out", &[], "a pack of other shards");
    refused("out", &["--caption-key=alt"], "with other captions, columns or filter");
    place.file("out/pack.jsonl", "{}\n");
    refused("out", &[], "its pack.jsonl is not that of a pack");
    refused("new", &["--max-bad=2"], "0 <= share <= 1");
    // A folder of images with one more than before.
    fs::create_dir(place.path("photos")).unwrap();
    let photo = |name: &str| {
        place.file(&format!("photos/{name}.png"), crate::robust::png(1));
        place.file(&format!("photos/{name}.txt"), "a square");
    };
    photo("1");
    photo("2");
    let photos = place.path("photos").display().to_string();
    pack(&place, &photos, "shoe-box", &[]).expect(0);
    photo("0");
    let ran = pack(&place, &photos, "shoe-box", &[]).expect(1);
    assert!(ran.stderr.contains("a pack of other shards"), "{}", ran.stderr);
    for wrong in [&["--size=0"][..], &["--shard-size=5apples"], &["--raw", "--quality=3"], &["--seed=1"]] {
        pack(&place, &data, "new", wrong).expect(2);
    }
}

#[test]
fn broken_samples_are_left_out_and_too_many_stop_it() {
    let place = Place::new();
    let data = shards(&place, 2, 4);
    let whole = fs::read(place.path("in/01.tar")).unwrap();
    place.file("in/01.tar", &whole[..whole.len() - 3000]);
    let stopped = pack(&place, &data, "few", &[]).expect(1);
    assert!(stopped.stderr.contains("1 of the 8 samples read so far are broken"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("a larger --max-bad continues"), "{}", stopped.stderr);
    let ran = pack(&place, &data, "few", &["--max-bad=0.5"]).expect(0);
    assert!(ran.stdout.contains("skipped: truncated member"), "{}", ran.stdout);
}

/// As a check does: each is named and counted, and the exit code is 1.
#[test]
fn packs_and_statistics_go_on_after_a_shard_that_is_none() {
    let place = Place::new();
    let data = shards(&place, 5, 3);
    for (name, bytes) in [("00", &b"%PDF-1.4"[..]), ("02", b""), ("04", b"<html>404</html>")] {
        place.file(&format!("in/{name}.tar"), bytes);
    }
    let names = |said: &str| {
        for words in ["00.tar is not a tar archive: it is a PDF", "02.tar holds no samples", "04.tar is not"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    };
    for (name, flags) in [("order", &["--shard-samples=2"][..]), ("shuffled", &["--shard-samples=2", "--shuffle"])] {
        let ran = pack(&place, &data, name, flags).expect(1);
        names(&ran.stderr);
        let row = |ran: &Ran, row: [&str; 4]| {
            let is_row = |line: &str| line.split_whitespace().eq(row.into_iter().filter(|word| !word.is_empty()));
            assert!(ran.stdout.lines().any(is_row), "{row:?}: {}", ran.stdout);
        };
        row(&ran, ["samples", "6", "", ""]);
        row(&ran, ["skipped:", "unusable", "shards", "3"]);
        let whole = files(&place.path(name));
        // Interrupted before the last shard, and before the pack was noted as complete.
        let journal = String::from_utf8(whole["pack.jsonl"].clone()).unwrap();
        for kept in [3, 4] {
            fs::remove_file(place.path(name).join("sizes.json")).unwrap();
            let lines: String = journal.split_inclusive('\n').take(kept).collect();
            place.file(&format!("{name}/pack.jsonl"), lines);
            let again = pack(&place, &data, name, flags).expect(1);
            row(&again, ["skipped:", "unusable", "shards", "3"]);
            assert!(files(&place.path(name)) == whole, "{kept}");
        }
    }
    // A shard that cannot be read may be there again later.
    fs::remove_file(place.path("in/00.tar")).unwrap();
    std::os::unix::fs::symlink("/nowhere", place.path("in/00.tar")).unwrap();
    let ran = pack(&place, &data, "gone", &[]).expect(1);
    assert!(ran.stderr.contains("cannot read") && !place.path("gone/sizes.json").exists(), "{}", ran.stderr);
    place.file("none.tar", "%PDF-1.4");
    // Nothing is known of it that a table or a histogram could show.
    let none = flipk(&["data", "stat", &place.path("none.tar").display().to_string()]).expect(1);
    let shown: Vec<&str> = none.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(shown.len() == 3 && shown[2].starts_with("unusable shards"), "{}", none.stdout);
    let ran = flipk(&["data", "stat", &place.path("in/{01..04}.tar").display().to_string(), "--json"]).expect(1);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    for (key, value) in [("shards", 4), ("opened_shards", 2), ("unusable_shards", 2), ("samples", 6)] {
        assert_eq!(found[key], value, "{key}: {found}");
    }
    let ran = flipk(&["data", "stat", &place.path("none.tar").display().to_string()]).expect(1);
    assert!(ran.stdout.contains("unusable shards") && ran.stderr.contains("PDF"), "{}{}", ran.stdout, ran.stderr);
}

/// Encoding it once more would lose detail, unless it is turned.
#[test]
fn a_small_jpeg_is_packed_as_it_is() {
    let place = Place::new();
    let image = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name);
        fs::read(path).unwrap()
    };
    let (small, png) = (image("jpeg-420.jpg"), image("png-gamma.png"));
    let mut archive = Vec::new();
    for (name, bytes) in [("1.jpg", &small), ("1.txt", &b"a".to_vec()), ("2.png", &png), ("2.txt", &b"b".to_vec())] {
        crate::pack::append(&mut archive, name, bytes);
    }
    crate::pack::finish(&mut archive);
    let data = place.file("a.tar", archive);
    let packed = |out: &str, flags: &[&str]| {
        let arg = format!("--out={}", place.path(out).display());
        flipk(&[&["data", "pack", &data, &arg], flags].concat()).expect(0);
        members(&files(&place.path(out))["000000.tar"])
    };
    let as_it_is = packed("same", &[]);
    assert!(as_it_is[0] == ("1.jpg".to_owned(), small.clone()) && as_it_is[2].0 == "2.jpg");
    for (out, flags) in [("smaller", ["--size=8"]), ("turned", ["--exif-orientation=apply"])] {
        assert_ne!(packed(out, &flags)[0].1, small, "{out}");
    }
}

/// More than half of the first thousand, and less than half when the samples that are packed at once are done.
#[test]
fn the_number_of_threads_does_not_decide_whether_too_many_are_broken() {
    let place = Place::new();
    let mut archive = Vec::new();
    for number in 0..1008 {
        let image = if number < 501 { b"no image".to_vec() } else { crate::robust::png(1) };
        crate::pack::append(&mut archive, format!("{number}.png"), &image);
        crate::pack::append(&mut archive, format!("{number}.txt"), b"a square");
    }
    crate::pack::finish(&mut archive);
    let data = place.file("a.tar", archive);
    for threads in ["1", "3"] {
        let out = format!("--out={}", place.path(threads).display());
        let args = ["data", "pack", &data, &out, "--size=16", "--max-bad=0.5"];
        let ran = command().args(args).env("RAYON_NUM_THREADS", threads).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains("501 of the 1000 samples read so far"), "{threads}: {said}");
    }
}

/// A file-size limit stands in for a full disk.
#[test]
fn a_full_disk_leaves_whole_shards_and_no_others() {
    let place = Place::new();
    let data = shards(&place, 3, 40);
    let out = place.path("out").display().to_string();
    let args = ["data", "pack", &data, "--out", &out, "--raw", "--size=20"];
    // `ulimit` counts KiB. Without the trap the signal would end the program before the write can fail.
    let limited = format!("trap '' XFSZ; ulimit -f 64; exec {FLIPK} {}", args.join(" "));
    let ran = Command::new("bash").args(["-c", &limited]).output().unwrap();
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(1) && stderr.contains("cannot write"), "{stderr}");
    assert_eq!(files(&place.path("out")).into_keys().collect::<Vec<_>>(), ["pack.jsonl"]);
    flipk(&args).expect(0);
}

#[test]
fn ctrl_c_leaves_whole_shards_and_the_rest_follows() {
    let place = Place::new();
    let data = shards(&place, 40, 100);
    let out = place.path("out");
    let arg = format!("--out={}", out.display());
    let args = ["data", "pack", &data, &arg, "--size=16", "--shard-samples=10"].map(str::to_owned);
    let child = start_until(&args, &out.join("000001.tar"));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = ended(child).expect(130);
    assert!(ran.stderr.contains("run the same command again to continue"), "{}", ran.stderr);
    let left = files(&out);
    assert!(!left.contains_key("sizes.json") && !left.keys().any(|name| name.ends_with(".part")), "{:?}", left.keys());
    flipk(&args).expect(0);
    pack(&place, &data, "whole", &["--shard-samples=10"]).expect(0);
    assert!(files(&out) == files(&place.path("whole")));
}

#[test]
fn statistics_count_sizes_formats_captions_and_duplicates() {
    let place = Place::new();
    let (data, tokenizer) = (shards(&place, 3, 7), format!("--tokenizer={}", vocab(&place)));
    let small = ["--image-size=32", "--context=2"];
    let ran = flipk(&[&["data", "stat", &data, &tokenizer], &small[..]].concat()).expect(0);
    for words in ["21 samples in 3 shards; looked at 21", "PNG", "repeated images", "images/s on one thread"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    // Two of three captions have three words.
    assert!(ran.stdout.contains("71.4 % of the captions are cut to 2 tokens"), "{}", ran.stdout);
    let ran = flipk(&["data", "stat", &data, "--sample=6", "--json"]).expect(0);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let expected = [("samples", 21), ("looked_at", 6), ("opened_shards", 3), ("duplicate_images", 4)];
    for (key, value) in expected {
        assert_eq!(found[key], value, "{key}: {found}");
    }
    assert_eq!((&found["width"]["p50"], &found["tokens"]), (&20.into(), &serde_json::Value::Null));
    flipk(&["data", "stat", &data, "--sample=6", "--all"]).expect(2);
    let wrong = flipk(&["data", "stat", &data, "--image-size=50"]).expect(1);
    assert!(wrong.stderr.contains("it must be a multiple of patch_size = 16"), "{}", wrong.stderr);
}
