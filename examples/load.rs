//! Times the loader alone: reading, decoding, cropping, masking and tokenising, without a model. Prints a JSON object.
//!
//! ```sh
//! cargo run --release --example load -- 'shards/{000..009}.tar' 0.75 1 10
//! cargo run --release --example load -- 'shards/{000..009}.tar' 0.75 --stages --clip
//! ```
//!
//! The arguments are shards, the mask ratio, the number of decoding threads, and for how many seconds. It takes FLIP's
//! images of 224 pixels in patches of 16, and the tokenizer of the embedded data or, with `--clip`, CLIP's.
//! `--jpeg-scaling` scales large JPEGs down while they are decoded. `--stages` adds what a sample costs by what is
//! done, in microseconds of CPU time and as a share of all.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flipk::data::image::Decoding;
use flipk::data::{
    CaptionKeys, Effort, Loader, LoaderConfig, Order, Position, Tokenizer, TokenizerOptions, TrainingData,
};
use serde_json::{Map, Value, json};

const USAGE: &str = "usage: load SHARDS [MASK_RATIO [THREADS [SECONDS]]] [--clip] [--jpeg-scaling] [--stages]";

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> Result<(), Box<dyn Error>> {
    let (flags, arguments): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    const FLAGS: [&str; 3] = ["--clip", "--jpeg-scaling", "--stages"];
    if !flags.iter().all(|flag| FLAGS.contains(&flag.as_str())) {
        return Err(USAGE.into());
    }
    let [clip, jpeg_scaling, stages] = FLAGS.map(|flag| flags.iter().any(|given| given == flag));
    let mut arguments = arguments.into_iter();
    let shards = arguments.next().ok_or(USAGE)?;
    let mask_ratio = arguments.next().map_or(Ok(0.5), |text| text.parse())?;
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(5.0), |text| text.parse())?;

    let config = LoaderConfig { batch: 64, mask_ratio, threads, time_stages: stages, ..LoaderConfig::default() };
    let decoding = Decoding { scale_to: jpeg_scaling.then_some(config.image_size as u32), ..Decoding::default() };
    // In the order of shards, no image is kept in memory once it was decoded.
    let (captions, cache) = (CaptionKeys::default(), None::<PathBuf>);
    let data = TrainingData::open(&[shards], captions, decoding, Order::Shards, cache.as_deref())?;
    let options = TokenizerOptions::default();
    let tokenizer = if clip { Tokenizer::clip(&options)? } else { Tokenizer::embedded(&options)? };
    let batch = config.batch as f64;
    let mut loader = Loader::new(data, tokenizer, config, Position::default())?;
    let mut take = |batches: usize| -> Result<Effort, Box<dyn Error>> {
        for _ in 0..batches {
            let batch = loader.next_batch()?;
            loader.recycle(batch);
        }
        Ok(loader.effort())
    };
    // What is prepared ahead, and first uses.
    let before = take(6)?;
    let (cpu, start, mut batches) = (cpu_seconds(), Instant::now(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        take(1)?;
        batches += 1;
    }
    let effort = take(0)?.since(&before);
    let (samples, wall) = (f64::from(batches) * batch, start.elapsed().as_secs_f64());
    let mut rates = json!({
        "samples_per_second": samples / wall,
        "samples_per_cpu_second": samples / (cpu_seconds() - cpu),
        "skipped": loader.skipped().values().sum::<u64>(),
    });
    if stages {
        rates["stages"] = table(&effort);
    }
    println!("{rates}");
    Ok(())
}

/// What a sample costs, stage by stage.
fn table(effort: &Effort) -> Value {
    let stages = effort.stages;
    let timed = stages.reading + stages.tokenizing + stages.decoding + stages.resizing;
    let all = effort.computed + stages.copying;
    let row = |time: Duration| {
        let microseconds = time.as_secs_f64() * 1e6 / effort.images as f64;
        json!({"microseconds": microseconds, "share": time.as_secs_f64() / all.as_secs_f64()})
    };
    let rows = [
        ("reading", stages.reading),
        ("tokenizing", stages.tokenizing),
        ("decoding", stages.decoding),
        ("resizing", stages.resizing),
        ("copying", stages.copying),
        ("other", effort.computed.saturating_sub(timed)),
        ("all", all),
    ];
    rows.map(|(name, time)| (name.to_owned(), row(time))).into_iter().collect::<Map<_, _>>().into()
}

/// Seconds that all threads of this process have computed so far, in the program and in the system.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: it writes to `usage`, of which zeros are a valid value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
