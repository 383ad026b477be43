//! `flipk data preview`: its sheet is compared with the batches of a loader with the same flags, as a run has it.

use std::fs;

use clap::Parser;
use flipk::data::{Batch, CropRect, Loader, Origin, Position};
use flipk::train::{Options, Settings, described, tokenizer};
use image::RgbImage;
use serde_json::{Value, json};

use crate::harness::{data_flags, flipk};
use crate::pack;
use crate::place::Place;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

/// What training with these flags loads first: batches of one sample, and its name.
fn loaded(flags: &[&str], count: usize) -> Vec<(Batch, String)> {
    let Flags { options } = Flags::parse_from([&["flipk"], flags].concat());
    let tokenizer = tokenizer(&options).unwrap();
    let base = described(&options).unwrap().model;
    let mut settings = Settings::resolve(options, base, tokenizer.vocab_size()).unwrap();
    let (data, config) = (settings.open_data(None).unwrap(), settings.loader.clone());
    let mut loader = Loader::new(data.clone(), tokenizer, config.clone(), Position::start(config.streams)).unwrap();
    let (mut rows, bytes) = (Vec::new(), config.kept() * config.patch_size.pow(2) * 3);
    while rows.len() < count {
        let batch = loader.next_batch().unwrap();
        let names = data.names(&batch.samples).into_iter().enumerate();
        rows.extend(names.map(|(row, name)| {
            let images = batch.images[row * bytes..][..bytes].into();
            let ids_keep = batch.ids_keep[row * config.kept()..][..config.kept()].to_vec();
            let origins = vec![batch.origins[row].clone()];
            (Batch { images, ids_keep, origins, ..Batch::default() }, name)
        }));
    }
    rows.truncate(count);
    rows
}

/// 14 samples in two shards, of which one is broken.
fn shards(place: &Place) -> String {
    fs::create_dir(place.path("in")).unwrap();
    for (name, first) in [("in/a.tar", 0_u8), ("in/b.tar", 7)] {
        let mut archive = Vec::new();
        for number in first..first + 7 {
            let size = (60, 60 + u32::from(number) * 5);
            let pixels = RgbImage::from_fn(size.0, size.1, |x, y| {
                image::Rgb([x * 4, y * 2, u32::from(number) * 9 + (x ^ y) % 64].map(|value| value as u8))
            });
            let mut png = std::io::Cursor::new(Vec::new());
            pixels.write_to(&mut png, image::ImageFormat::Png).unwrap();
            let png = png.into_inner();
            let png = if number == 9 { &png[..200] } else { &png };
            pack::append(&mut archive, format!("{number}.png"), png);
            pack::append(
                &mut archive,
                format!("{number}.txt"),
                format!("a red square\na blue one {number}").as_bytes(),
            );
        }
        pack::finish(&mut archive);
        place.file(name, archive);
    }
    place.path("in").display().to_string()
}

/// Side of a square of the sheet for images of 16 pixels, by which factor they are enlarged, and where tile `number` of
/// rows of three begins.
const SIDE: u32 = 192;
const SCALE: u32 = SIDE / 16;
fn corner(number: u32) -> (u32, u32) {
    (24 + number % 3 * (2 * SIDE + 6 + 24), 24 + number / 3 * (SIDE + 6 + 4 * 18 + 24))
}

/// In patches of 4 pixels.
fn assert_visible(sheet: &RgbImage, (left, top): (u32, u32), row: &Batch, what: &str) {
    for patch in 0..16_u32 {
        let visible = row.ids_keep.iter().position(|&id| id == patch);
        let visible = visible.map(|at| &row.images[at * 4 * 4 * 3..][..4 * 4 * 3]);
        for (x, y) in (0..4 * SCALE).flat_map(|y| (0..4 * SCALE).map(move |x| (x, y))) {
            let place = (left + patch % 4 * 4 * SCALE + x, top + patch / 4 * 4 * SCALE + y);
            let pixel = sheet.get_pixel(place.0, place.1).0;
            match visible {
                Some(patch) => {
                    let at = ((y / SCALE * 4 + x / SCALE) * 3) as usize;
                    assert_eq!(pixel, patch[at..at + 3], "{what}: {place:?}");
                }
                None => assert!(pixel == [184; 3] || pixel == [200; 3], "{what}: {place:?}: {pixel:?}"),
            }
        }
    }
}

/// Around the crop of an image that is as high as its square, and in the middle of it.
fn assert_framed(sheet: &RgbImage, (left, top): (u32, u32), Origin { width, height, crop, .. }: &Origin, what: &str) {
    let shown = width * SIDE / height;
    let place = |x: u32, y: u32| (left + (SIDE - shown) / 2 + x * shown / width, top + y * SIDE / height);
    let (first, end) = (place(crop.left, crop.top), place(crop.left + crop.width, crop.top + crop.height));
    let square = (left..left + SIDE).flat_map(|x| (top..top + SIDE).map(move |y| (x, y)));
    let red: Vec<(u32, u32)> = square.filter(|&(x, y)| sheet.get_pixel(x, y).0 == [220, 0, 0]).collect();
    assert_eq!((red.first(), red.last()), (Some(&first), Some(&(end.0 - 1, end.1 - 1))), "{what}: {crop:?}");
}

/// The preview takes the flags of a training run as they are.
#[test]
fn the_sheet_has_the_crops_masks_and_captions_of_training() {
    const COUNT: usize = 17;
    let place = Place::new();
    let (data, vocab) = (shards(&place), place.file("vocab.txt", "[PAD]\n[UNK]\na\nred\nblue\none\nsquare\n"));
    let (out, mut skipped) = (place.path("sheet.png"), 0);
    // In the last case, all samples shown come from the first stream.
    for (order, streams, batch) in
        [("global", "1", "4"), ("shards", "1", "4"), ("shards", "2", "4"), ("global", "2", "64")]
    {
        let flags = ["--data", &data, "--tokenizer", &vocab, "--order", order, "--streams", streams, "--batch", batch];
        let sizes = ["--image-size=16", "--patch-size=4", "--context=3", "--mask-ratio=0.5", "--seed=5"];
        let flags = [&flags[..], &sizes, &["--crop-min=0.3", "--max-bad=1", "--lr=1e-3", "--epochs=2"]].concat();
        let own = ["data", "preview", "--json", "--count=17", "--columns=3", "--out", out.to_str().unwrap()];
        let found: Value = serde_json::from_str(&flipk(&[&own[..], &flags].concat()).expect(0).stdout).unwrap();
        let sheet = image::open(&out).unwrap().into_rgb8();
        let (end, rows) = ((corner(2).0 + 2 * SIDE + 6 + 24, corner(18).1), loaded(&flags, COUNT));
        assert_eq!(sheet.dimensions(), end);
        skipped += found["skipped"]["bad_image"].as_u64().unwrap_or_default();
        let samples = found["samples"].as_array().unwrap();
        assert_eq!(samples.len(), COUNT);
        for ((number, (row, name)), sample) in (0..).zip(rows).zip(samples) {
            let (what, (left, top)) = (format!("{order}, {streams} streams, {number}"), corner(number));
            let Origin { width, height, crop, caption } = &row.origins[0];
            let CropRect { left: x, top: y, width: crop_width, height: crop_height } = crop;
            let tokens = caption.split(' ').count();
            let expected = json!({
                "shard": name.rsplit_once(':').unwrap().0, "key": name.rsplit_once(':').unwrap().1,
                "width": width, "height": height,
                "crop": { "left": x, "top": y, "width": crop_width, "height": crop_height },
                "caption": caption, "tokens": tokens, "cut": tokens > 3,
            });
            assert_eq!(sample, &expected, "{what}");
            assert_visible(&sheet, (left + SIDE + 6, top), &row, &what);
            assert_framed(&sheet, (left, top), &row.origins[0], &what);
        }
        let cut = samples.iter().filter(|sample| sample["cut"] == true).count();
        assert!(cut > 0 && cut < COUNT, "{cut}");
    }
    // Wherever all 14 samples were visited.
    assert!(skipped >= 3, "{skipped}");
}

#[test]
fn it_says_what_is_missing_and_leaves_no_half_sheet() {
    let place = Place::new();
    let [data, _] = data_flags(&place.path(""), &["a cat", "a dog"], "a cat");
    let sheet = place.path("sheet.png");
    let run = |out: &str, flags: &[&str]| flipk(&[&["data", "preview", "--out", out], flags].concat());
    let out = sheet.to_str().unwrap();

    let ran = run(out, &[&data, "--count=3"]).expect(0);
    assert!(ran.stderr.contains("no --tokenizer: tokens are counted with the embedded one"), "{}", ran.stderr);
    assert!(ran.stdout.contains("samples") && ran.stdout.contains("written: "), "{}", ran.stdout);
    // More than a run puts up with.
    let mut archive = Vec::new();
    for (name, content) in [("0.png", &crate::robust::png(1)[..]), ("1.png", b"<html>404</html>"), ("2.png", b"")] {
        pack::append(&mut archive, name, content);
        pack::append(&mut archive, name.replace("png", "txt"), b"a cat");
    }
    pack::finish(&mut archive);
    let broken = format!("--data={}", place.file("broken.tar", archive));
    let ran = run(out, &[&broken, "--count=4"]).expect(0);
    assert!(ran.stderr.contains("broken.tar:1: bad image"), "{}", ran.stderr);
    assert!(ran.stdout.contains("skipped: bad image"), "{}", ran.stdout);
    let before = fs::read(&sheet).unwrap();
    // It is not there before it is drawn.
    let (new, from) = (place.path("new.png"), data.trim_start_matches("--data="));
    let command = format!("--data=pipe:test ! -e {} && cat {from}", new.display());
    run(new.to_str().unwrap(), &[&command, "--count=3"]).expect(0);
    fs::remove_file(new).unwrap();

    for (flags, words) in [
        (&["--data=nowhere.tar"][..], "nowhere.tar"),
        (&[&*data, "--count=100000000"], "the sheet would have more than 100000000 pixels; show fewer samples"),
        (&[&*data, "--image-size=50"], "patch_size"),
        (&[&*broken, "--max-bad=0.1", "--count=9"], "broken"),
    ] {
        for out in [out, place.path("new.png").to_str().unwrap()] {
            let ran = run(out, flags).expect(1);
            assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        }
    }
    assert!(!place.path("new.png").exists() && fs::read(&sheet).unwrap() == before);
    let missing = place.path("no/such/sheet.png").display().to_string();
    for (out, words) in [(&*missing, "No such file"), ("/", "directory"), ("/dev/full", "No space left")] {
        let ran = run(out, &[&data]).expect(1);
        assert!(ran.stderr.contains(&format!("cannot write {out}")) && ran.stderr.contains(words), "{}", ran.stderr);
    }
    flipk(&["data", "preview", &data]).expect(2);
    run(out, &[&data, "--count=0"]).expect(2);
}
