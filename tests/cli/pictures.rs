//! Image files as phones, scanners and crawlers write them.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::harness::{checkpoint, flipk, json, tensors, train};
use crate::pack;

fn encoded(number: u8, format: ImageFormat) -> Vec<u8> {
    let pixels = RgbImage::from_fn(40, 30, |x, y| Rgb([x as u8 * 6, y as u8 * 8, number.wrapping_mul(37)]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(pixels).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Trains for one epoch on these images. Returns stderr, and what was skipped.
fn train_on(folder: &Path, images: &[(String, Vec<u8>)], more: &[&str]) -> (String, serde_json::Value) {
    let mut archive = Vec::new();
    for (number, (name, image)) in images.iter().enumerate() {
        pack::append(&mut archive, name, image);
        let key = name.split('.').next().unwrap();
        pack::append(&mut archive, format!("{key}.txt"), format!("a picture {}", number % 3).as_bytes());
    }
    pack::finish(&mut archive);
    let [shard, vocab, run] = ["shard.tar", "vocab.txt", "run"].map(|name| folder.join(name));
    std::fs::write(&shard, archive).unwrap();
    std::fs::write(&vocab, "[PAD]\n[UNK]\na\npicture\n0\n1\n2\n").unwrap();
    let own = [format!("--data={}", shard.display()), format!("--tokenizer={}", vocab.display())];
    let own = own.iter().map(String::as_str).chain(["--epochs=1", "--batch=8", "--max-bad=1"]);
    let flags: Vec<&str> = own.chain(more.iter().copied()).collect();
    let ran = train(&run, &flags).expect(0);
    (ran.stderr, json(&run.join("summary.json"))["skipped"].clone())
}

#[test]
fn motion_photos_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // Random videos: some end like a JPEG, some like the start of a scan.
    let video = |number: u32| {
        (0..40_000_u32).map(move |n| ((n + number * 40_000).wrapping_mul(2_654_435_761).rotate_left(15) >> 24) as u8)
    };
    let photo = |number: u32| {
        let name = format!("{number:03}.jpg");
        (name, encoded(number as u8, ImageFormat::Jpeg).into_iter().chain(video(number)).collect())
    };
    let photos: Vec<_> = (0..40).map(photo).collect();
    let (said, skipped) = train_on(folder.path(), &photos, &[]);
    assert_eq!(skipped, serde_json::json!({}), "{said}");
}

#[test]
fn every_format_is_read_whatever_its_name() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for (number, format) in [Jpeg, Png, WebP, Gif, Bmp, Tiff].into_iter().enumerate() {
        let own = format.extensions_str()[0];
        for extension in [own, "jpg", "PNG"] {
            images.push((format!("{number}-{own}-{extension}.{extension}"), encoded(number as u8, format)));
        }
    }
    images.push(("x.jfif".to_owned(), encoded(9, Jpeg)));
    // A PNG without its last bytes has all of its rows.
    let png = encoded(10, Png);
    images.push(("y.png".to_owned(), png[..png.len() - 12].to_vec()));
    let (said, skipped) = train_on(folder.path(), &images, &["--exif-orientation=apply"]);
    assert_eq!(skipped, serde_json::json!({}), "{said}");
    let config = std::fs::read_to_string(folder.path().join("run/config.toml")).unwrap();
    assert!(config.contains("exif_orientation = \"apply\""), "{config}");
    let run = folder.path().join("run").display().to_string();
    let data = format!("--data={}", folder.path().join("shard.tar").display());
    flipk(&["eval", "retrieval", &run, &data]).expect(0);
}

#[test]
fn runs_and_packs_keep_whether_jpegs_are_scaled() {
    let folder = tempfile::tempdir().unwrap();
    let photo = |number: u8| {
        let pixels = RgbImage::from_fn(320, 300, |x, y| {
            Rgb([x * x / 9, y * x / 7, (x + y) * u32::from(number)].map(|value| value as u8))
        });
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(pixels).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        (format!("{number:03}.jpg"), bytes.into_inner())
    };
    let photos: Vec<_> = (0..32).map(photo).collect();
    let weights = |scaling: &str| {
        train_on(folder.path(), &photos, &[scaling, "--save-every=2", "--loader-threads=1"]);
        let saved = checkpoint(&folder.path().join("run"), 4);
        let weights = tensors(&saved);
        (weights, saved)
    };
    let (expected, saved) = weights("--jpeg-scaling");
    let run = folder.path().join("run");
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("jpeg_scaling = true"), "{config}");
    // Resumed in the middle, and refused with other pixels.
    std::fs::remove_file(saved).unwrap();
    let resume = format!("--resume={}", run.display());
    let ran = flipk(&["train", &resume, "--jpeg-scaling=false"]).expect(1);
    assert!(ran.stderr.contains("--jpeg-scaling is not what the run"), "{}", ran.stderr);
    flipk(&["train", &resume, "--loader-threads=3"]).expect(0);
    assert!(tensors(&checkpoint(&run, 4)) == expected);
    std::fs::remove_dir_all(&run).unwrap();
    let (full, _) = weights("--jpeg-scaling=false");
    assert!(full != expected);
    let other = folder.path().join("other");
    let ran = train(&other, &["--jpeg=rust", "--jpeg-scaling"]).expect(1);
    assert!(ran.stderr.contains("only libjpeg-turbo scales JPEGs"), "{}", ran.stderr);
    // A pack continues only with the same choice.
    let shard = folder.path().join("shard.tar").display().to_string();
    let pack = |out: &str, flags: &[&str], code: i32| {
        let out = format!("--out={}", folder.path().join(out).display());
        flipk(&[&["data", "pack", &shard, &out, "--size=48", "--raw"], flags].concat()).expect(code)
    };
    pack("whole", &[], 0);
    pack("scaled", &["--jpeg-scaling"], 0);
    let [whole, scaled] =
        ["whole", "scaled"].map(|out| std::fs::read(folder.path().join(out).join("000000.tar")).unwrap());
    assert!(whole.len() == scaled.len() && whole != scaled);
    let refused = pack("scaled", &[], 1);
    assert!(
        refused.stderr.contains("a pack with --jpeg-scaling, and this command has no --jpeg-scaling"),
        "{}",
        refused.stderr
    );
}

#[test]
fn files_that_are_not_images_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut images: Vec<_> = (0..20).map(|n| (format!("{n:03}.png"), encoded(n, ImageFormat::Png))).collect();
    let others: [(&[u8], &str); 4] = [
        (b"", "it is empty (0 bytes)"),
        (b"\0\0\0\x1Cftypavif\0\0\0\0mif1miaf", "it is AVIF"),
        (b"<html><body>404</body></html>", "it is an HTML page"),
        (b"\xFF\xD8\xFF\xE0\0\x10JFIF\0", "the JPEG data ends before any pixels"),
    ];
    for (number, (bytes, _)) in others.iter().enumerate() {
        images.push((format!("x{number}.jpg"), bytes.to_vec()));
    }
    let (said, skipped) = train_on(folder.path(), &images, &[]);
    for (number, (_, words)) in others.iter().enumerate() {
        assert!(said.contains(&format!("shard.tar:x{number}: bad image: {words}")), "{words}: {said}");
    }
    assert!(skipped["bad_image"].as_u64().unwrap() >= others.len() as u64, "{skipped}");
}
