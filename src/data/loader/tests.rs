//! What the loader promises, on small archives.

use std::sync::Arc;

use super::*;
use crate::data::broken::Kind;
use crate::data::dataset::Dataset;
use crate::data::sample::{Augmentation, CaptionKeys, visible_patches};
use crate::data::testing::{Archive, jpeg, png};

const VOCAB: &[u8] =
    b"[PAD]\n[UNK]\n,\nname\ntag\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n##0\n##1\n##2\n##3\n##4\n##5\n##6\n##7\n##8\n##9\n";

pub(super) fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(VOCAB, "vocab.txt").unwrap()
}

pub(super) fn config(batch: usize, threads: usize) -> LoaderConfig {
    LoaderConfig { batch, threads, image_size: 16, patch_size: 4, context: 6, seed: 7, ..LoaderConfig::default() }
}

/// A sample of its own number; every third is a JPEG.
pub(super) fn add(archive: &mut Archive, number: u64) {
    match number % 3 {
        0 => archive.add(&format!("{number}.jpg"), &jpeg(30, 20, number)),
        _ => archive.add(&format!("{number}.png"), &png(20, 30, number)),
    };
    archive
        .add(&format!("{number}.json"), format!(r#"{{"caption": "name {number}", "tags": ["tag", "1"]}}"#).as_bytes());
}

pub(super) fn archive(samples: u64) -> Archive {
    let mut archive = Archive::default();
    (0..samples).for_each(|number| add(&mut archive, number));
    archive
}

fn open(archives: &[&Archive]) -> Arc<Dataset> {
    let files: Vec<String> = archives.iter().map(|archive| archive.file()).collect();
    Arc::new(Dataset::open(&files, CaptionKeys::default()).unwrap())
}

fn loader(dataset: &Arc<Dataset>, config: LoaderConfig, start: Position) -> Loader {
    Loader::new(dataset.clone(), tokenizer(), config, start).unwrap()
}

/// The position of a single stream.
fn at(epoch: u64, index: u64) -> Position {
    Position { streams: vec![StreamPosition { epoch, group: 0, index }] }
}

/// The next `count` batches, without their waiting times.
pub(super) fn batches(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).map(|_| Batch { waited: Duration::ZERO, ..loader.next_batch().unwrap() }).collect()
}

#[test]
fn batches_have_the_shapes_and_contents_promised() {
    let dataset = open(&[&archive(10)]);
    let config = LoaderConfig { mask_ratio: 0.75, ..config(4, 2) };
    let mut loader = loader(&dataset, config, Position::default());
    let batch = loader.next_batch().unwrap();
    assert_eq!(batch.images.len(), 4 * 4 * 4 * 4 * 3);
    assert_eq!(batch.tokens.len(), 4 * 6);
    assert_eq!(batch.ids_keep.len(), 4 * 4);
    assert_eq!(batch.next, at(0, 4));
    for (place, &sample) in batch.samples.iter().enumerate() {
        // "name" is 3, a digit 5 and more.
        assert_eq!(batch.tokens[place * 6..][..2], [3, 5 + sample as i32]);
        let mut ids = [0; 4];
        visible_patches(7, 0, sample, 16, &mut ids);
        assert_eq!(batch.ids_keep[place * 4..][..4], ids);
    }
}

#[test]
fn visible_patches_have_the_bits_of_whole_images() {
    let dataset = open(&[&archive(10)]);
    for color_jitter in [0.0, 0.5] {
        let batch = |mask_ratio| {
            let augmentation = Augmentation { color_jitter, ..Augmentation::default() };
            let config = LoaderConfig { mask_ratio, augmentation, ..config(10, 2) };
            loader(&dataset, config, Position::default()).next_batch().unwrap()
        };
        let (whole, masked) = (batch(0.0), batch(0.75));
        assert_eq!((&whole.samples, whole.images.len()), (&masked.samples, 10 * 16 * 16 * 3));
        let bytes = 4 * 4 * 3;
        for (place, (&id, patch)) in masked.ids_keep.iter().zip(masked.images.chunks_exact(bytes)).enumerate() {
            assert_eq!(patch, &whole.images[(place / 4 * 16 + id as usize) * bytes..][..bytes]);
        }
    }
}

#[test]
fn batches_do_not_depend_on_threads_recycling_or_the_cache() {
    let mut broken = archive(40);
    broken.add("bad.png", b"no image").add("bad.txt", b"name").add("none.txt", b"name");
    let dataset = open(&[&broken, &archive(5)]);
    let expected = batches(&mut loader(&dataset, config(8, 1), Position::default()), 15);
    for threads in [2, 5] {
        assert_eq!(batches(&mut loader(&dataset, config(8, threads), Position::default()), 15), expected);
    }
    let uncached =
        Arc::new(Dataset::open(&[broken.file(), archive(5).file()], CaptionKeys::default()).unwrap().with_cache(0));
    let mut recycling = loader(&uncached, config(8, 3), Position::default());
    for expected in &expected {
        let batch = batches(&mut recycling, 1).remove(0);
        assert_eq!(&batch, expected);
        recycling.recycle(batch);
    }
    let other_seed = batches(&mut loader(&dataset, LoaderConfig { seed: 8, ..config(8, 1) }, Position::default()), 1);
    assert_ne!(other_seed[0], expected[0]);
}

#[test]
fn a_resumed_loader_goes_on_to_the_bit() {
    let mut broken = archive(11);
    broken.add("bad.png", b"no image").add("bad.txt", b"name");
    let dataset = open(&[&broken]);
    let whole = batches(&mut loader(&dataset, config(4, 2), Position::default()), 20);
    for done in 1..12 {
        let saved = serde_json::to_string(&whole[done - 1].next).unwrap();
        let start = serde_json::from_str(&saved).unwrap();
        assert_eq!(batches(&mut loader(&dataset, config(4, 3), start), 8), whole[done..done + 8]);
    }
    let beyond = at(0, 12);
    let error = Loader::new(dataset, tokenizer(), config(4, 1), beyond).unwrap_err().to_string();
    assert!(error.contains("position = 12") && error.contains("12 samples"), "{error}");
}

#[test]
fn every_epoch_visits_every_sample_once() {
    let dataset = open(&[&archive(13), &archive(5)]);
    let mut loader = loader(&dataset, config(6, 2), Position::default());
    for epoch in 0..4 {
        let batches = batches(&mut loader, 3);
        let mut seen: Vec<u64> = batches.iter().flat_map(|batch| batch.samples.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..18).collect::<Vec<_>>());
        assert_eq!(batches[2].next, at(epoch + 1, 0));
    }
}

#[test]
fn every_kind_of_broken_sample_is_skipped_counted_and_named() {
    let mut archive = archive(95);
    archive.add("image.jpg", &jpeg(30, 20, 1)[..300]).add("image.txt", b"name");
    archive.add("words.png", &png(8, 8, 1)).add("words.txt", b"caf\xE9");
    archive.add("mute.png", &png(8, 8, 2)).add("mute.json", b"{\"text\": \"name\"}");
    archive.add("blind.txt", b"name");
    archive.add("late.txt", b"name").add("late.png", &png(8, 8, 3));
    archive.cut(400);
    let dataset = open(&[&archive]);
    assert_eq!(dataset.len(), 100);
    let mut loader = loader(&dataset, config(95, 2), Position::default());
    let batch = loader.next_batch().unwrap();
    let mut seen = batch.samples;
    seen.sort_unstable();
    assert_eq!(seen, (0..95).collect::<Vec<_>>(), "the good ones, all of the first epoch");
    // The second epoch's are skipped by the second batch.
    loader.next_batch().unwrap();
    let skipped = loader.skipped();
    let kinds = [Kind::TruncatedMember, Kind::MissingImage, Kind::BadImage, Kind::MissingCaption, Kind::NonUtf8Caption];
    assert!(kinds.iter().all(|kind| skipped[kind] >= 1) && skipped.len() == kinds.len(), "{skipped:?}");
    let warnings = loader.take_warnings().join("\n");
    for name in
        ["image: bad image", "words: non-UTF-8", "mute: missing caption", "blind: missing image", "late: truncated"]
    {
        assert!(warnings.contains(name), "{name} in {warnings}");
    }
    assert!(warnings.lines().count() <= 6);
    assert!(loader.take_warnings().is_empty());
}

#[test]
fn too_many_broken_samples_stop_after_the_batches_before() {
    let mut bad = archive(17);
    for number in 0..3 {
        bad.add(&format!("bad{number}.png"), b"no image").add(&format!("bad{number}.txt"), b"name");
    }
    let dataset = open(&[&archive(30), &bad]);
    let run = |threads, max_bad| {
        let mut loader = loader(&dataset, LoaderConfig { max_bad, ..config(2, threads) }, Position::default());
        let mut samples = Vec::new();
        for _ in 0..100 {
            match loader.next_batch() {
                Ok(batch) => samples.extend(batch.samples),
                Err(error) => {
                    let then = loader.next_batch().unwrap_err().to_string();
                    return (samples, Some((error.to_string(), then)), loader.take_warnings().join("\n"));
                }
            }
        }
        (samples, None, loader.take_warnings().join("\n"))
    };
    let (samples, error, warnings) = run(1, 0.05);
    let (first, then) = error.clone().unwrap();
    assert!(first.contains(&bad.file()) && first.contains("3 bad of") && first.contains("3 x bad image"), "{first}");
    assert!(first.contains("larger --max-bad") && first.contains("leave out the worst shard"), "{first}");
    assert!(then.contains("ended"), "{then}");
    assert_eq!(run(3, 0.05), (samples, error, warnings.clone()), "the same batches and error on any number of threads");
    // All are named, although the batch with the last of them was never made.
    assert!((0..3).all(|number| warnings.contains(&format!(":bad{number}: bad image"))), "{warnings}");
    // 3 of 50 are not more than 6 %, but 3 of the 20 in one shard are worth a warning.
    let (_, error, warnings) = run(2, 0.06);
    assert!(error.is_none(), "{error:?}");
    assert!(warnings.contains("are broken, 3 of 20 so far") && warnings.contains(&bad.file()), "{warnings}");
    assert_eq!(warnings.lines().count(), 4, "each is named once, however often it was visited: {warnings}");
}

/// Batches that were prefetched and never taken are not counted.
#[test]
fn counts_do_not_depend_on_prefetching() {
    let mut archive = archive(30);
    for number in 0..3 {
        archive.add(&format!("bad{number}.png"), b"no image").add(&format!("bad{number}.txt"), b"name");
    }
    let dataset = open(&[&archive]);
    let counts = |prefetch, threads| {
        let config = LoaderConfig { prefetch, max_bad: 1.0, ..config(4, threads) };
        let mut loader = loader(&dataset, config, Position::default());
        let seen: Vec<(Skipped, usize)> = (0..20)
            .map(|_| {
                loader.next_batch().unwrap();
                // Time for the threads to run ahead.
                std::thread::sleep(Duration::from_millis(2));
                (loader.skipped(), loader.take_warnings().len())
            })
            .collect();
        seen
    };
    let expected = counts(1, 1);
    assert_eq!(counts(30, 3), expected);
    let sums: Vec<u64> = expected.iter().map(|(skipped, _)| skipped.values().sum()).collect();
    assert!(sums[0] <= 1 && sums.is_sorted() && sums[19] >= 6, "three in each of the first two epochs: {sums:?}");
}

#[test]
fn samples_that_damage_has_cost_count_once() {
    let mut broken = archive(40);
    broken.cut(1);
    let path = broken.file();
    let mut bytes = std::fs::read(&path).unwrap();
    let third = bytes.len() / 3;
    bytes[third..2 * third].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let dataset = Arc::new(Dataset::open(&[&path], CaptionKeys::default()).unwrap());
    assert!(dataset.warnings().iter().any(|warning| warning.contains("are lost")), "{:?}", dataset.warnings());
    let config = LoaderConfig { max_bad: 0.5, ..config(20, 2) };
    let mut patient = loader(&dataset, config.clone(), Position::default());
    batches(&mut patient, 5);
    let lost = patient.skipped()[&Kind::LostSample];
    assert!((5..25).contains(&lost), "a third of 40 samples of different sizes: {lost}");
    let error =
        loader(&dataset, LoaderConfig { max_bad: 0.1, ..config }, Position::default()).next_batch().unwrap_err();
    assert!(error.to_string().contains(&format!("{lost} x lost sample")), "{error}");
}

#[test]
fn a_shard_that_shrinks_ends_loading_with_its_name() {
    let archive = archive(30);
    let path = archive.file();
    let dataset = Arc::new(Dataset::open(&[&path], CaptionKeys::default()).unwrap().with_cache(0));
    let mut loader = loader(&dataset, LoaderConfig { max_bad: 1.0, ..config(4, 2) }, Position::default());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2000).unwrap();
    let error = (0..100).find_map(|_| loader.next_batch().err()).unwrap();
    let message = error.to_string();
    assert!(matches!(error, DataError::Unreadable { .. }) && message.contains(&path), "{message}");
    assert!(message.contains("has 2000 now"), "{message}");
}

#[test]
fn a_few_early_broken_samples_do_not_stop_a_large_shard_and_a_wholly_broken_one_stops_early() {
    let mut mixed = Archive::default();
    for number in 0..400 {
        let image: &[u8] = if number % 12 == 0 { b"no image" } else { &png(4, 4, number) };
        mixed.add(&format!("{number}.png"), image).add(&format!("{number}.txt"), b"name");
    }
    let dataset = open(&[&mixed]);
    batches(&mut loader(&dataset, config(50, 2), Position::default()), 40);

    let mut broken = Archive::default();
    for number in 0..3000 {
        broken.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
    }
    let dataset = open(&[&broken]);
    let error = loader(&dataset, config(50, 2), Position::default()).next_batch().unwrap_err();
    assert!(matches!(error, DataError::TooManyBroken { visited: 100, bad: 100, .. }), "{error}");
}

#[test]
fn nothing_but_broken_samples_is_an_error_even_if_all_may_be_broken() {
    let mut archive = Archive::default();
    for number in 0..20 {
        archive.add(&format!("{number}.png"), b"no image").add(&format!("{number}.txt"), b"name");
    }
    let config = LoaderConfig { max_bad: 1.0, ..config(4, 2) };
    let error = loader(&open(&[&archive]), config.clone(), Position::default()).next_batch().unwrap_err();
    assert!(matches!(error, DataError::NoGoodSample { visited: 39, .. }), "{error}");
    // Two good ones are enough to continue, however far apart they come in two epochs.
    for number in [3, 11] {
        archive.add(&format!("good{number}.png"), &png(8, 8, number)).add(&format!("good{number}.txt"), b"name");
    }
    for seed in 0..20 {
        let config = LoaderConfig { seed, ..config.clone() };
        batches(&mut loader(&open(&[&archive]), config, Position::default()), 10);
    }
}

/// Dropping a loader joins its threads, at any time; a hang would show as a test that never ends.
#[test]
fn dropped_loaders_end_their_threads() {
    let dataset = open(&[&archive(10)]);
    for taken in 0..4 {
        let mut loader = loader(&dataset, config(4, 3), Position::default());
        batches(&mut loader, taken);
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1, "a thread still holds the data set");
    }
}

#[test]
fn impossible_configurations_name_their_field() {
    let dataset = open(&[&archive(3)]);
    let good = config(2, 1);
    for (field, wrong) in [
        ("batch", LoaderConfig { batch: 0, ..good.clone() }),
        ("image_size", LoaderConfig { image_size: 18, ..good.clone() }),
        ("mask_ratio", LoaderConfig { mask_ratio: 1.0, ..good.clone() }),
        ("context", LoaderConfig { context: 0, ..good.clone() }),
        ("max_bad", LoaderConfig { max_bad: f32::NAN, ..good.clone() }),
        ("flip", LoaderConfig { augmentation: Augmentation { flip: 2.0, ..Augmentation::default() }, ..good.clone() }),
    ] {
        let error = Loader::new(dataset.clone(), tokenizer(), wrong, Position::default()).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

/// JPEGs of the size and shape of photographs.
#[test]
fn photographs_load() {
    let mut archive = Archive::default();
    for number in 0..24 {
        let [width, height] = [[500, 375], [375, 500], [640, 427]][number as usize % 3];
        archive.add(&format!("{number}.jpg"), &jpeg(width, height, number)).add(&format!("{number}.txt"), b"name");
    }
    let dataset = open(&[&archive]);
    let config = LoaderConfig { batch: 24, image_size: 64, patch_size: 16, threads: 2, ..LoaderConfig::default() };
    let mut loader = loader(&dataset, config, Position::default());
    let batch = loader.next_batch().unwrap();
    assert!(loader.skipped().is_empty());
    let mut samples = batch.samples.clone();
    samples.sort_unstable();
    assert_eq!(samples, (0..24).collect::<Vec<_>>());
    // These pictures are neither flat nor noise: pixels vary, and neighbours are alike.
    for image in batch.images.chunks_exact(batch.images.len() / 24) {
        let mean = image.iter().map(|&c| f64::from(c)).sum::<f64>() / image.len() as f64;
        let deviation = image.iter().map(|&c| (f64::from(c) - mean).abs()).sum::<f64>() / image.len() as f64;
        let step = image.windows(4).map(|w| f64::from(w[0].abs_diff(w[3]))).sum::<f64>() / image.len() as f64;
        assert!(deviation > 5.0 && step < deviation, "{mean} {deviation} {step}");
    }
}
