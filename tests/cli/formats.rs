//! The same samples in every format that flipk reads: they must train to the same bits.

use std::path::Path;

use crate::harness::{Ran, checkpoint, flipk, tensors, train_args};
use crate::pack;
use crate::place::Place;

/// The images of `tests/fixtures/tfrecord`, in its order.
const NAMES: [&str; 6] = ["jpeg-420", "jpeg-422", "jpeg-444", "jpeg-grey", "jpeg-422-progressive", "jpeg-quality-10"];
const CAPTION: &str = "a good one";

fn fixture(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn image(name: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("images/{name}.jpg"))).unwrap()
}

fn train(place: &Place, run: &str, data: &str, more: &[&str]) -> Ran {
    let tokenizer = format!("--tokenizer={}", place.path("vocab.txt").display());
    flipk(&train_args(&place.path(run), &[&["--batch=4", "--steps=4", &tokenizer], more, &["--data", data]].concat()))
}

#[test]
fn the_same_samples_train_to_the_same_bits_in_every_format() {
    let place = Place::new();
    place.file("vocab.txt", "[PAD]\n[UNK]\na\ngood\none\n");
    let (mut archive, mut folder_order) = (Vec::new(), NAMES);
    for name in NAMES {
        pack::append(&mut archive, format!("{name}.jpg"), &image(name));
        pack::append(&mut archive, format!("{name}.txt"), CAPTION.as_bytes());
    }
    pack::finish(&mut archive);
    let tar = place.file("six.tar", &archive);
    let zst = place.file("six.tar.zst", zstd::encode_all(&archive[..], 3).unwrap());
    let rows: String = NAMES.iter().map(|name| format!("{name}.jpg\t{CAPTION}\n")).collect();
    std::fs::create_dir(place.path("images")).unwrap();
    for name in NAMES {
        place.file(&format!("images/{name}.jpg"), image(name));
    }
    let table = place.file("images/six.csv", format!("filepath\ttitle\n{rows}"));
    let other = place.file("images/other.csv", rows.replace('\t', ",").replacen("", "picture,words\n", 1));
    let records = fixture("tfrecord/six.tfrecord").display().to_string();
    let mut formats = vec![
        ("zst", &zst, &[][..]),
        ("table", &table, &[]),
        ("other", &other, &["--image-key=picture", "--caption-key=words"]),
        ("records", &records, &[]),
    ];
    let parquet =
        ["hugging-face", "img2dataset"].map(|name| fixture(&format!("parquet/{name}.parquet")).display().to_string());
    if cfg!(feature = "parquet") {
        formats.push(("hugging-face", &parquet[0], &[]));
        formats.push(("img2dataset", &parquet[1], &["--where=status = 'success'"]));
    }

    let weights = |run: &str| tensors(&checkpoint(&place.path(run), 4));
    train(&place, "tar", &tar, &[]).expect(0);
    for (run, data, more) in formats {
        train(&place, run, data, more).expect(0);
        assert!(weights(run) == weights("tar"), "{run} differs");
    }

    // A folder is read in the order of its names, and so is another archive.
    folder_order.sort_unstable();
    let mut archive = Vec::new();
    std::fs::create_dir_all(place.path("folder/more")).unwrap();
    for (number, name) in folder_order.iter().enumerate() {
        let stem = if number < 3 { format!("{number}") } else { format!("more/{number}") };
        for (extension, bytes) in [("jpg", image(name)), ("txt", CAPTION.into())] {
            pack::append(&mut archive, format!("{stem}.{extension}"), &bytes);
            place.file(&format!("folder/{stem}.{extension}"), bytes);
        }
    }
    pack::finish(&mut archive);
    let tar = place.file("sorted.tar", &archive);
    train(&place, "sorted", &tar, &[]).expect(0);
    let folder = place.path("folder").display().to_string();
    train(&place, "folder", &folder, &[]).expect(0);
    assert!(weights("folder") == weights("sorted"));

    // The run's options name the columns for its evaluation.
    let run = place.path("other").display().to_string();
    let ran = flipk(&["eval", "retrieval", &run, "--data", &other, "--json"]).expect(0);
    assert!(ran.stdout.contains("\"images\""), "{}", ran.stdout);
}

/// The commands that read data sets, on Hugging Face's file: labels of classes, and samples as in any other shard.
#[cfg(feature = "parquet")]
#[test]
fn parquet_is_evaluated_checked_measured_and_packed() {
    let place = Place::new();
    place.file("vocab.txt", "[PAD]\n[UNK]\na\ngood\none\n");
    let classes = place.file("classes.txt", "grey\ncolour\n");
    let [data, rows] =
        ["hugging-face", "img2dataset"].map(|name| fixture(&format!("parquet/{name}.parquet")).display().to_string());
    train(&place, "run", &data, &[]).expect(0);
    let run = place.path("run").display().to_string();
    let ran =
        flipk(&["eval", "zero-shot", &run, "--data", &data, "--classes", &classes, "--caption-key=cls", "--json"])
            .expect(0);
    assert!(ran.stdout.contains("\"images\": 6") || ran.stdout.contains("\"images\":6"), "{}", ran.stdout);
    flipk(&["data", "check", &data]).expect(0);
    let ran = flipk(&["data", "check", &rows]).expect(1);
    let said = ran.stdout + &ran.stderr;
    assert!(said.contains("000000002") && said.contains("the column `jpg` is null"), "{said}");
    // Rows that could not be downloaded are left out, as in training.
    let ran = flipk(&["data", "check", &rows, "--where", "status = 'success'"]).expect(0);
    assert!(ran.stderr.contains("of 7 samples looked at pass --where status = 'success'"), "{}", ran.stderr);
    for (filter, words) in
        [("stats = 'success'", "none of 7 samples has `stats`"), ("width < 0", "none of the 7 samples of the data")]
    {
        let out = place.path("filtered").display().to_string();
        for command in [&["check", &*rows][..], &["stat", &rows], &["pack", &rows, "--out", &out]] {
            let ran = flipk(&[&["data"], command, &["--where", filter]].concat()).expect(1);
            assert!(ran.stderr.contains(words), "{command:?} {}", ran.stderr);
        }
    }
    let ran = flipk(&["data", "stat", &data, "--cache-size=1GB"]).expect(1);
    assert!(ran.stderr.contains("--cache-size 1GB is invalid: it applies to cache"), "{}", ran.stderr);
    flipk(&["data", "stat", &data]).expect(0);
    let packed = place.path("packed").display().to_string();
    flipk(&["data", "pack", &data, "--out", &packed]).expect(0);
    train(&place, "again", &packed, &[]).expect(0);
    // What cannot be used says why.
    let cut = std::fs::read(&data).unwrap();
    let cut = place.file("cut.parquet", &cut[..cut.len() / 2]);
    let ran = train(&place, "none", &cut, &[]).expect(1);
    assert!(ran.stderr.contains("cut.parquet as Parquet: it does not end with `PAR1`"), "{}", ran.stderr);
}

#[test]
fn tables_and_folders_that_cannot_be_used_say_why() {
    let place = Place::new();
    place.file("vocab.txt", "[PAD]\n[UNK]\na\ngood\none\n");
    let addresses = place.file("a.csv", "url,caption\nhttp://example.org/1.jpg,a cat\n");
    let says = |data: &str, words: &[&str]| {
        let ran = train(&place, "none", data, &[]).expect(1);
        let missing: Vec<_> = words.iter().filter(|word| !ran.stderr.contains(**word)).collect();
        assert!(missing.is_empty(), "{missing:?} is not in\n{}", ran.stderr);
    };
    says(&addresses, &["no column with the paths of images", "has `url`, `caption`", "--image-key"]);
    let gone = place.file("gone.tsv", "filepath\ttitle\n1.jpg\ta cat\n2.jpg\ta dog\n");
    let columns = "found the columns `filepath`, `title`";
    says(
        &gone,
        &["no images in", "looked for an image in each row", columns, "1.jpg: missing image: there is no file /"],
    );
    std::fs::create_dir(place.path("texts")).unwrap();
    place.file("texts/1.txt", "a cat");
    says(&place.path("texts").display().to_string(), &["no images there", "holds 1.txt"]);
    std::fs::create_dir(place.path("alone")).unwrap();
    place.file("alone/1.jpg", image("jpeg-420"));
    says(
        &place.path("alone").display().to_string(),
        &["no captions in", "looked for a .txt file or the field `caption` of the .json file", "found .jpg"],
    );
    let silent = place.file("silent.csv", "filepath,words\nalone/1.jpg,a cat\n");
    says(
        &silent,
        &["looked for a column title, caption, text, txt or captions; found the columns `filepath`, `words`"],
    );
    let key = ["--caption-key=titel"];
    let ran = train(&place, "none", &silent, &key).expect(1);
    assert!(ran.stderr.contains("looked for the column `titel`; found the columns"), "{}", ran.stderr);
    let ran = train(&place, "none", &fixture("tfrecord/six.tfrecord").display().to_string(), &key).expect(1);
    assert!(
        ran.stderr.contains("looked for the field `titel` of the feature json; found the features `jpg`, `key`, `txt`"),
        "{}",
        ran.stderr
    );
    let mut records = std::fs::read(fixture("tfrecord/six.tfrecord")).unwrap();
    let middle = records.len() / 2;
    records[middle] ^= 1;
    let damaged = place.file("damaged.tfrecord", records);
    let ran = train(&place, "damaged", &damaged, &["--max-bad=0.5"]).expect(0);
    assert!(ran.stderr.contains("its checksum is wrong"), "{}", ran.stderr);
}
