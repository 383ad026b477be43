//! Every op at FLIP's shapes, forwards and backwards: time, throughput, and how near it is to the limit that the
//! device's own ceilings set.
//!
//!     cargo bench --bench ops                                    on the CPU, at small batches
//!     cargo bench --bench ops -- 'attention b16'                 rows whose names match
//!     FLIPK_BENCH_DEVICE=cuda cargo bench --bench ops
//!     FLIPK_BENCH_BASELINE=before.json cargo bench --bench ops   compared with another commit
//!
//! | variable | |
//! |---|---|
//! | `FLIPK_BENCH_DEVICE` | `cpu`, `cuda` (the first GPU) or `emulator` |
//! | `FLIPK_BENCH_BATCH` | samples in a batch, for all models |
//! | `FLIPK_BENCH_JSON` | where the result goes; `target/criterion/ops.json` |
//! | `FLIPK_BENCH_BASELINE` | a result to compare with; `flipk profile --compare` does that for two saved ones |
//! | `FLIPK_BENCH_COMMIT` | the commit, outside a repository |
//!
//! Each repetition is timed by the device's own clock. On a GPU the L2 cache is flushed before each.
#![allow(unreachable_pub, reason = "a bench has no outside; `pub` is for its other files")]

mod cases;
mod measure;
mod parts;

use std::env;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use criterion::Criterion;
use flipk::cli::benches::render;
use flipk::device::cuda::{Emulated, EmulatorOptions, Gpu};
use flipk::device::{Cpu, Cuda};
use flipk::model::Preset;
use flipk::profile::{Benches, measure_ceilings};
use half::bf16;

use cases::{Plan, parameters};
use measure::{Bench, Flush};
use parts::Parts;

const MODELS: [Preset; 3] = [Preset::B16, Preset::L16, Preset::H14];
const LOSSES: [usize; 4] = [4096, 8192, 16_384, 65_536];

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn adamw(preset: Preset) -> (String, usize) {
    (format!("adamw {preset}"), parameters(preset))
}

/// The value of `key` in one of Linux's files about the machine.
fn proc_value(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Half of the memory that is free, in bytes.
fn room() -> usize {
    let kilobytes = proc_value("/proc/meminfo", "MemAvailable").and_then(|text| text.split(' ').next()?.parse().ok());
    kilobytes.map_or(4 << 30, |kilobytes: usize| kilobytes * 512)
}

fn cpu_plan(batch: Option<usize>) -> Plan {
    let batches = [8, 4, 2].map(|usual| batch.unwrap_or(usual));
    let (losses, large): (Vec<usize>, Vec<usize>) = LOSSES.iter().partition(|batch| **batch <= 8192);
    let products = |batch| 6.0 * (batch * batch) as f64 * 512.0 / 1e12;
    let mut left_out: Vec<(String, String)> = (large.into_iter())
        .map(|batch| (format!("losses {batch}"), format!("{:.1} TFLOP each on a CPU", products(batch))))
        .collect();
    let room = room();
    let bytes = |len: usize| 5 * 4 * len;
    let (fitting, others): (Vec<_>, Vec<_>) = MODELS.map(adamw).into_iter().partition(|(_, len)| bytes(*len) <= room);
    left_out.extend(others.into_iter().map(|(name, len)| {
        let gigabytes = |bytes: usize| bytes as f64 / 1e9;
        (name, format!("{:.1} GB, more than half of what is free ({:.1} GB)", gigabytes(bytes(len)), gigabytes(room)))
    }));
    Plan { models: MODELS.into_iter().zip(batches).collect(), losses, optimizers: fitting, left_out }
}

fn git_commit() -> Option<String> {
    let describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let described = Command::new("git").args(describe).output().ok().filter(|described| described.status.success())?;
    Some(String::from_utf8_lossy(&described.stdout).trim().to_owned())
}

/// Today's date, UTC, as `2026-01-31`.
fn date() -> String {
    let mut days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if days < length {
            break;
        }
        days -= length;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}

fn read(file: &str) -> Result<Benches> {
    let text = std::fs::read_to_string(file).with_context(|| format!("FLIPK_BENCH_BASELINE: cannot read {file}"))?;
    serde_json::from_str(&text).with_context(|| format!("FLIPK_BENCH_BASELINE: {file} was not written by this bench"))
}

fn run<D: Parts>(device: D, of: &str, inputs: &str, flush: bool, plan: Plan) -> Result<()> {
    let device = Arc::new(device);
    let file = variable("FLIPK_BENCH_JSON").unwrap_or_else(|| {
        // Criterion creates the folder later. If this fails, opening the file reports it.
        let _ = std::fs::create_dir_all("target/criterion");
        "target/criterion/ops.json".to_owned()
    });
    let mut found = Benches {
        device: device.describe() + of,
        batch: plan.models.iter().map(|(preset, batch)| (preset.to_string(), *batch)).collect(),
        commit: variable("FLIPK_BENCH_COMMIT").or_else(git_commit),
        date: date(),
        inputs: inputs.to_owned(),
        ceilings: measure_ceilings(&device, false)?,
        rows: vec![],
        left_out: vec![],
    };
    // Problems with the files are reported before minutes of measuring.
    let before = variable("FLIPK_BENCH_BASELINE").map(|file| read(&file)).transpose()?;
    if let Some(problem) = before.as_ref().and_then(|before| found.incomparable(before)) {
        bail!("FLIPK_BENCH_BASELINE cannot be compared with: {problem}");
    }
    let cannot_write = || format!("cannot write {file}; FLIPK_BENCH_JSON names another file");
    std::fs::OpenOptions::new().create(true).append(true).open(&file).with_context(cannot_write)?;
    let mut bench = Bench {
        flush: flush.then(|| Flush::new(&*device)).transpose()?,
        device,
        ceilings: found.ceilings,
        criterion: Criterion::default().configure_from_args(),
        rows: vec![],
        left_out: vec![],
    };
    bench.all(plan)?;
    bench.criterion.final_summary();
    (found.rows, found.left_out) = (bench.rows, bench.left_out);
    if found.rows.is_empty() {
        return Ok(());
    }
    print!("\n{}", render(&found, before.as_ref()));
    std::fs::write(&file, serde_json::to_string_pretty(&found)? + "\n").with_context(cannot_write)
}

fn main() -> ExitCode {
    match choose() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the environment and runs what it asks for.
fn choose() -> Result<()> {
    let batch = match variable("FLIPK_BENCH_BATCH") {
        None => None,
        Some(text) => match text.parse() {
            Ok(batch) if batch > 0 => Some(batch),
            _ => bail!("FLIPK_BENCH_BATCH is `{text}`; it must be a whole number from 1 on"),
        },
    };
    let device = variable("FLIPK_BENCH_DEVICE").unwrap_or_else(|| "cpu".to_owned());
    match device.as_str() {
        "cpu" => {
            let of = proc_value("/proc/cpuinfo", "model name").map_or_else(String::new, |model| format!(", {model}"));
            let inputs = "medians; inputs are as warm in the caches as the call before leaves them, so that small ones can be \
                          faster than memory";
            run(Cpu::default(), &of, inputs, false, cpu_plan(batch))
        }
        "cuda" => {
            let models = MODELS.map(|preset| (preset, batch.unwrap_or(1024))).to_vec();
            let plan =
                Plan { models, losses: LOSSES.to_vec(), optimizers: MODELS.map(adamw).to_vec(), left_out: vec![] };
            let inputs = "medians; the L2 cache is flushed before each call";
            run(Cuda::<bf16>::new(Arc::new(Gpu::new(0)?))?, "", inputs, true, plan)
        }
        "emulator" => {
            // Counting is what the estimates come from.
            let driver = Arc::new(Emulated::new(EmulatorOptions { count: true, ..Default::default() }));
            let (models, optimizers) = (vec![(Preset::B16, batch.unwrap_or(2))], vec![("adamw".to_owned(), 1 << 20)]);
            let left_out = vec![("l16, h14, larger losses".to_owned(), "emulation takes too long".to_owned())];
            let plan = Plan { models, losses: vec![256], optimizers, left_out };
            run(Cuda::<bf16>::new(driver)?, "", "estimates from what the kernels did", false, plan)
        }
        other => bail!("FLIPK_BENCH_DEVICE is `{other}`; it must be cpu, cuda or emulator"),
    }
}
