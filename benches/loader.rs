//! Samples per second of the loader, and of its parts on one thread: `decode` (a JPEG), `crop` (random resized crop,
//! flip), `tokenise` (a caption).
//!
//! The limit of the whole is the JPEG decoder; `packed` is the same photographs after `flipk data pack`, and with raw
//! pixels the resize is the limit. The embedded emoji are decoded once and then come from the cache.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flipk::data::tools::{Filter, Form, Input, Pack, ShardLimit};
use flipk::data::{CaptionKeys, Dataset, Loader, LoaderConfig, Position, Tokenizer, TokenizerOptions, image};
use flipk::random::{Purpose, Random};
use tar::{Builder, Header};

const VOCAB: &[u8] = b"[PAD]\n[UNK]\na\nphoto\n##graph\nof\n";
const SAMPLES: u64 = 256;

/// 500 x 375 pixels of soft shapes with some grain, which compress about as photographs do (some 50 kB).
fn photograph(number: u64) -> Vec<u8> {
    let mut random = Random::new(number, Purpose::Test, 0, 0);
    let waves: Vec<[f32; 3]> =
        (0..9).map(|_| [random.range(0.0, 0.05), random.range(0.0, 0.05), random.uniform() * 6.0]).collect();
    let pixels = ::image::RgbImage::from_fn(500, 375, |x, y| {
        let wave = |[a, b, phase]: &[f32; 3]| (a * x as f32 + b * y as f32 + phase).sin();
        let grain = random.range(-12.0, 12.0);
        ::image::Rgb([0, 3, 6].map(|c| (128.0 + 35.0 * waves[c..c + 3].iter().map(wave).sum::<f32>() + grain) as u8))
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut bytes, ::image::ImageFormat::Jpeg).expect("encoding in memory");
    bytes.into_inner()
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn batches(group: &mut Group, name: &str, dataset: &Arc<Dataset>, tokenizer: &Tokenizer, config: LoaderConfig) {
    let start = Position::default();
    let mut loader = Loader::new(dataset.clone(), tokenizer.clone(), config, start).expect("the loader");
    let mut take = |batches: u64| {
        for _ in 0..batches {
            let batch = loader.next_batch().expect("a batch");
            loader.recycle(batch);
        }
    };
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|samples| {
            // What was made ahead would be given away for nothing.
            take(5);
            let (clock, batches) = (Instant::now(), samples.div_ceil(32));
            take(batches);
            clock.elapsed().mul_f64(samples as f64 / (batches * 32) as f64)
        });
    });
}

/// The photographs with a short side of 256 pixels.
fn pack(shard: &str, form: Form, out: &Path) {
    let input = Input::find(&[shard], CaptionKeys::default(), image::Decoding::default()).expect("the archive");
    let limit = ShardLimit::Samples(SAMPLES);
    let pack = Pack {
        size: 256,
        form,
        filter: Filter::Area,
        jpeg_scaling: false,
        limit,
        shuffle: None,
        max_bad: 0.0,
        tokens: None,
    };
    pack.run(&input, out, &AtomicBool::new(false), &mut |_, _| {}, &mut |_| {}).expect("packing");
}

fn bench(criterion: &mut Criterion) {
    let mut archive = Builder::new(Vec::new());
    for number in 0..SAMPLES {
        for (extension, data) in [("jpg", &photograph(number)[..]), ("txt", b"a photograph of a photo")] {
            let mut header = Header::new_gnu();
            header.set_size(data.len() as u64);
            archive.append_data(&mut header, format!("{number:06}.{extension}"), data).expect("writing in memory");
        }
    }
    let archive = archive.into_inner().expect("writing in memory");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("photographs.tar");
    std::fs::write(&path, &archive).expect("writing the archive");
    let open = Dataset::open(&[path.to_string_lossy()], CaptionKeys::default());
    let dataset = Arc::new(open.expect("opening the archive").with_cache(0));
    let tokenizer = Tokenizer::from_bytes(VOCAB, "vocab.txt").expect("the vocabulary");

    let emoji = Dataset::open(&["embedded:noto", "embedded:twemoji"], CaptionKeys::default());
    let emoji = Arc::new(emoji.expect("the embedded data set"));
    let emoji_tokenizer = Tokenizer::embedded(&TokenizerOptions::default()).expect("the embedded tokenizer");

    let mut group = criterion.benchmark_group("loader");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    let first = dataset.image(0).expect("the first image");
    let decoding = image::Decoding::default();
    group.bench_function("decode", |bencher| bencher.iter(|| image::decode(black_box(&first), decoding)));
    let decoded = image::decode(&first, decoding).expect("a JPEG that was encoded here");
    let LoaderConfig { image_size, context, augmentation, .. } = LoaderConfig::default();
    let mut square = image::Square::new(image_size, image_size);
    let (mut pixels, mut random) = (vec![0; square.bytes()], Random::new(0, Purpose::Test, 0, 0));
    group.bench_function("crop", |bencher| {
        bencher.iter(|| square.augmented(black_box(&decoded), &augmentation, &mut random, &[0], &mut pixels));
    });
    let mut tokens = vec![0; context];
    group.bench_function("tokenise", |bencher| {
        bencher
            .iter(|| emoji_tokenizer.encode(black_box("a photo of a woman with red hair on a bicycle"), &mut tokens));
    });
    let packs: Vec<(&str, Arc<Dataset>)> = [("jpeg", Form::Jpeg(90)), ("raw", Form::Raw)]
        .map(|(name, form)| {
            let out = folder.path().join(name);
            pack(&path.to_string_lossy(), form, &out);
            let open = Dataset::open(&[out.to_string_lossy()], CaptionKeys::default());
            (name, Arc::new(open.expect("opening the pack").with_cache(0)))
        })
        .into();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, cores] {
        let config = LoaderConfig { batch: 32, threads, prefetch: 1, ..LoaderConfig::default() };
        batches(&mut group, &format!("photographs/{threads} threads"), &dataset, &tokenizer, config.clone());
        for (name, packed) in &packs {
            batches(&mut group, &format!("packed {name}/{threads} threads"), packed, &tokenizer, config.clone());
        }
        let config = LoaderConfig { image_size: 48, patch_size: 8, ..config };
        batches(&mut group, &format!("emoji/{threads} threads"), &emoji, &emoji_tokenizer, config);
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
