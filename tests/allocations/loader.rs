//! Once its buffers are as large as they get, a loader allocates nothing for a sample. What remains is inside of
//! libjpeg-turbo, which makes its tables and rows again for each image.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use flipk::data::tools::{Filter, Form, Input, Pack, ShardLimit};
use flipk::data::{CaptionKeys, Dataset, Loader, LoaderConfig, Position, Tokenizer, TokenizerOptions, image};
use flipk::random::{Purpose, Random};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use tar::{Builder, Header};

use super::{Used, alone, counted};

const SAMPLES: u64 = 64;
const BATCH: usize = 32;
/// Of the same length, so that captions are.
const WORDS: [&str; 8] = ["tiger", "horse", "house", "trees", "river", "stone", "chair", "plant"];

/// Photographs of different sizes with captions, and tags in JSON if `tagged`.
fn archive(folder: &Path, tagged: bool) -> PathBuf {
    let mut archive = Builder::new(Vec::new());
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    for number in 0..SAMPLES {
        let (width, height) = (270 + random.below(60) as u16, 260 + random.below(40) as u16);
        let pixels: Vec<u8> = (0..usize::from(width) * usize::from(height) * 3)
            .map(|at| ((at / 3 % usize::from(width)) as u32 / 2 + random.below(20)) as u8)
            .collect();
        let mut jpeg = Vec::new();
        let mut encoder = Encoder::new(&mut jpeg, 90);
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
        encoder.encode(&pixels, width, height, ColorType::Rgb).unwrap();
        let word = |random: &mut Random| WORDS[random.below(8) as usize];
        let caption = format!("a photo of a {} and a {}\n", word(&mut random), word(&mut random));
        let json = br#"{"caption": "unused", "tags": ["red", "blue"], "width": 300}"#.to_vec();
        let members = [("jpg", jpeg), ("txt", caption.into_bytes()), ("json", json)];
        for (extension, data) in members.iter().take(if tagged { 3 } else { 2 }) {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            archive.append_data(&mut header, format!("{number:06}.{extension}"), &data[..]).unwrap();
        }
    }
    let path = folder.join(if tagged { "tagged.tar" } else { "photographs.tar" });
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    path
}

/// The photographs as raw pixels, with a short side of 256.
fn packed(photographs: &Path, out: PathBuf) -> PathBuf {
    let specs = [photographs.to_string_lossy()];
    let input = Input::find(&specs, CaptionKeys::default(), image::Decoding::default()).unwrap();
    let limit = ShardLimit::Samples(SAMPLES);
    let (form, filter, jpeg_scaling) = (Form::Raw, Filter::Area, false);
    let pack = Pack { size: 256, form, filter, jpeg_scaling, limit, shuffle: None, max_bad: 0.0, tokens: None };
    pack.run(&input, &out, &AtomicBool::new(false), &mut |_, _| {}, &mut |_| {}).unwrap();
    out
}

/// What is allocated in some epochs, after some others.
fn used(shards: &Path, tokenizer: &Tokenizer, mask_ratio: f64) -> (Used, f64) {
    let dataset = Dataset::open(&[shards.to_string_lossy()], CaptionKeys::default()).unwrap().with_cache(0);
    let config = LoaderConfig { batch: BATCH, mask_ratio, threads: 2, prefetch: 1, ..LoaderConfig::default() };
    let mut loader = Loader::new(Arc::new(dataset), tokenizer.clone(), config, Position::default()).unwrap();
    // More than are ever in use at once otherwise: how many were made would depend on which thread is ahead.
    let held: Vec<_> = (0..3).map(|_| loader.next_batch().unwrap()).collect();
    held.into_iter().for_each(|batch| loader.recycle(batch));
    let mut take = |batches: usize| {
        for _ in 0..batches {
            let batch = loader.next_batch().unwrap();
            loader.recycle(batch);
        }
    };
    take(10);
    let used = counted(|| take(10));
    (used, (10 * BATCH) as f64)
}

#[test]
fn a_sample_needs_no_memory_of_its_own() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let photographs = archive(folder.path(), false);
    let tagged = archive(folder.path(), true);
    let raw = packed(&photographs, folder.path().join("raw"));
    let embedded = Tokenizer::embedded(&TokenizerOptions::default()).unwrap();
    let clip = Tokenizer::clip(&TokenizerOptions::default()).unwrap();
    // At most this many allocations per sample, by Rust and by C: not one in twenty samples, since each epoch has a
    // permutation; ten by libjpeg-turbo, for its tables and rows; and those of parsed JSON, which is read at the half
    // of the visits that may append a tag.
    for (name, shards, most, most_by_c) in
        [("JPEG", &photographs, 0.05, 12.0), ("raw", &raw, 0.05, 0.05), ("JPEG with tags", &tagged, 16.0, 12.0)]
    {
        for (tokenizer, ratio) in [(&embedded, 0.0), (&clip, 0.75)] {
            let (used, samples) = used(shards, tokenizer, ratio);
            let [by_rust, bytes, by_c] = [used.allocations, used.bytes, used.by_c].map(|count| count as f64 / samples);
            let what = format!("{name}, ratio {ratio}: {by_rust:.2} allocations ({bytes:.0} bytes) and {by_c:.1} by C");
            println!("{what}");
            assert!(by_rust <= most && by_c <= most_by_c, "{what} per sample");
        }
    }
}
