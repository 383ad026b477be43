//! Times the loader alone: reading, decoding, cropping, masking and tokenising, without a model. Prints a JSON object.
//!
//! ```sh
//! cargo run --release --example load -- 'shards/{000..009}.tar' 0.75 1 10
//! ```
//!
//! The arguments are shards, the mask ratio, the number of decoding threads, and for how many seconds. It takes FLIP's
//! images of 224 pixels in patches of 16, and the tokenizer of the embedded data.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use flipk::data::image::Decoding;
use flipk::data::{CaptionKeys, Loader, LoaderConfig, Order, Position, Tokenizer, TokenizerOptions, TrainingData};
use serde_json::json;

const USAGE: &str = "usage: load SHARDS [MASK_RATIO [THREADS [SECONDS]]]";

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let shards = arguments.next().ok_or(USAGE)?;
    let mask_ratio = arguments.next().map_or(Ok(0.5), |text| text.parse())?;
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(5.0), |text| text.parse())?;

    // In the order of shards, no image is kept in memory once it was decoded.
    let (captions, cache) = (CaptionKeys::default(), None::<PathBuf>);
    let data = TrainingData::open(&[shards], captions, Decoding::default(), Order::Shards, cache.as_deref())?;
    let tokenizer = Tokenizer::embedded(&TokenizerOptions::default())?;
    let config = LoaderConfig { batch: 64, mask_ratio, threads, ..LoaderConfig::default() };
    let batch = config.batch as f64;
    let mut loader = Loader::new(data, tokenizer, config, Position::default())?;
    let mut take = |batches: usize| -> Result<(), Box<dyn Error>> {
        for _ in 0..batches {
            let batch = loader.next_batch()?;
            loader.recycle(batch);
        }
        Ok(())
    };
    // What is prepared ahead, and first uses.
    take(6)?;
    let (cpu, start, mut batches) = (cpu_seconds(), Instant::now(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        take(1)?;
        batches += 1;
    }
    let (samples, wall) = (f64::from(batches) * batch, start.elapsed().as_secs_f64());
    let rates = json!({
        "samples_per_second": samples / wall,
        "samples_per_cpu_second": samples / (cpu_seconds() - cpu),
        "skipped": loader.skipped().values().sum::<u64>(),
    });
    println!("{rates}");
    Ok(())
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
