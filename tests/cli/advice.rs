//! Runs that cannot learn, or do not, say so.

use std::path::Path;

use flipk::data::tar;

use crate::harness::{Ran, SMALL, flipk};

fn png(seed: u8) -> Vec<u8> {
    let pixels =
        image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([x as u8 * 12, y as u8 * 12, seed.wrapping_mul(37)]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Trains on images with these captions.
fn train(folder: &Path, captions: &[String], flags: &[&str]) -> Ran {
    let mut archive = Vec::new();
    for (number, caption) in captions.iter().enumerate() {
        tar::append(&mut archive, &format!("{number}.png"), &png(number as u8));
        tar::append(&mut archive, &format!("{number}.txt"), caption.as_bytes());
    }
    tar::finish(&mut archive);
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::write(path("a.tar"), archive).unwrap();
    std::fs::write(path("vocab.txt"), "[PAD]\n[UNK]\na\nphoto\nred\nblue\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
    let (data, tokenizer) = (format!("--data={}", path("a.tar")), format!("--tokenizer={}", path("vocab.txt")));
    let out = format!("--out={}", tempfile::tempdir_in(folder).unwrap().path().join("run").display());
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let other = |flag: &&&str| name(flag) != name("--eval-data") && !flags.iter().any(|own| name(own) == name(flag));
    let small = SMALL.iter().filter(other).copied().filter(|flag| !flag.starts_with("--data"));
    flipk(&["train", &out, &data, &tokenizer].into_iter().chain(small).chain(flags.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn settings_that_cannot_work_are_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let own: Vec<String> = (0..10).map(|number| format!("a photo {number}")).collect();
    let run = |captions: &[String], flags: &[&str]| {
        let ran = train(folder.path(), captions, flags).expect(0);
        ran.stderr
            .lines()
            .filter(|line| line.starts_with("warning"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    assert_eq!(run(&own, &["--batch=8", "--steps=2"]), "");
    let large = run(&own, &["--batch=64", "--steps=2"]);
    assert!(large.contains("a batch of 64 is larger than the data, 10 samples"), "{large}");
    assert!(run(&own, &["--batch=1", "--steps=2"]).contains("a batch of 1 has no other pair"));
    let warmup = run(&own, &["--batch=8", "--steps=2", "--warmup-samples=100000"]);
    assert!(warmup.contains("the warm-up of 12500 steps is not over when the run ends after 2"), "{warmup}");
    let alike = run(&vec!["a photo".to_owned(); 10], &["--batch=4", "--steps=2"]);
    assert!(alike.contains("\"a photo\": there is nothing to tell images apart by"), "{alike}");
    let classes: Vec<String> = (0..40).map(|number| ["red", "blue"][number % 2].to_owned()).collect();
    let classes = run(&classes, &["--batch=8", "--steps=2"]);
    assert!(classes.contains("% of a batch's captions") && classes.contains("2 distinct captions"), "{classes}");
    let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert!(run(&numbers, &["--batch=8", "--steps=2"]).contains("the captions are numbers, such as \"0\""));
}

/// A rate far too high for a small model makes all its embeddings alike; texts of which no word is known are alike from
/// the first step on.
#[test]
fn a_model_that_collapses_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let own: Vec<String> = (0..10).flat_map(|a| (0..8).map(move |b| format!("a {a} photo {b}"))).collect();
    let steps = ["--batch=16", "--steps=100", "--log-every=10"];
    let told = |ran: Ran| {
        assert_eq!(ran.stderr.matches("the model has collapsed").count(), 1, "{}", ran.stderr);
        ran.stderr
    };
    let fast = told(train(folder.path(), &own, &[&steps[..], &["--lr=1"]].concat()).expect(0));
    assert!(fast.contains("lower --lr"), "{fast}");
    let unknown: Vec<String> = ('\u{3b1}'..='\u{3c9}').map(|letter| letter.to_string().repeat(3)).collect();
    let texts = told(train(folder.path(), &unknown, &steps).expect(0));
    assert!(texts.contains("all texts are alike") && texts.contains("tokenizer"), "{texts}");
    let sigmoid = told(train(folder.path(), &unknown, &[&steps[..], &["--loss=sigmoid"]].concat()).expect(0));
    assert!(sigmoid.contains("tokenizer"), "{sigmoid}");
}
