//! `flipk profile`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::benches;
use super::device::{DeviceArgs, Job};
use super::logging::show;
use super::scale::{ScaleArgs, Simulation, measure_network};
use super::table::table;
use super::{check_writable, put};
use crate::device::KernelCounts;
use crate::ops::AllOps;
use crate::profile::{self, Benches, Ceilings, Group, Line, chrome_trace, compare, group, measure_ceilings, svg};
use crate::train::{Options, Precision, RunFolder, Settings, described, tokenizer};
use crate::units::Bytes;

/// Time a training step, layer by layer, and compare it with the device's limits
///
/// Runs some steps on real batches. Prints the median time of each part, its model FLOPs, its minimum memory traffic,
/// and how close it comes to its limit: memory bandwidth, or the rate of the fastest matrix product. Both are measured
/// on the device, and so is the rate of products that it sustains for 5 s. Lines named `recompute` (see --recompute) do
/// not count as model FLOPs. The emulator also counts the bytes that each part moves to and from memory.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk profile
  flipk profile --model b16 --mask-ratio 0.75 --batch 16 --group op
  flipk profile --model b16 --batch 16 --json before.json --picture step.svg --trace step.json
  flipk profile --compare before.json after.json
  flipk profile --fit                         # largest batches by card
  flipk profile --fit --recompute blocks      # the same with most activations recomputed
  flipk profile runs/b16-001                  # with the options of that run
  flipk profile --batch 8 --device emulator   # estimated time on an H100
  flipk profile --batch 8 --device emulator --group kernel   # counts per kernel, bank conflicts included
  flipk profile --model b16 --batch 16 --ranks 2,4           # simulated: a step on 2 and on 4 ranks
  flipk profile --ranks 8,256 --network cluster.toml --from step.json")]
pub(super) struct Profile {
    /// Run folder whose options to use; flags override them
    run: Option<PathBuf>,
    /// What to sum up in one line
    #[arg(long, value_enum, default_value_t)]
    group: Group,
    /// Steps to time op by op, and then as training runs them (not in emulation); two untimed steps precede each
    #[arg(long = "profile-steps", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Least time for the steps that are timed as training runs them, in seconds
    #[arg(long = "profile-seconds", value_name = "SECONDS", default_value_t = 0)]
    seconds: u32,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the step as a trace for Chrome's about:tracing and Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the step as a picture (SVG)
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Compare two profiles that --json wrote, or two results of `cargo bench --bench ops`, and run nothing
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    compare: Option<Vec<PathBuf>>,
    /// Print the largest batch that fits 24, 40, 80 and 141 GB for each preset and mask ratio, from the plan of a
    /// step's buffers in bf16 with --recompute as given, and run nothing
    #[cfg(feature = "cuda")]
    #[arg(long, conflicts_with = "compare")]
    fit: bool,
    /// Measure the device's ceilings again, even if earlier results are cached
    #[arg(long)]
    ceilings: bool,
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    options: Options,
}

const NOT_COUNTED: &str = "kernels are counted only in emulation";

struct Measurement {
    job: profile::Job,
    again: bool,
    group: Group,
}

impl Job for Measurement {
    type Output = profile::Profile;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<profile::Profile> {
        if self.group == Group::Kernel && !device.estimates() {
            bail!("{NOT_COUNTED}: --group kernel needs --device emulator");
        }
        let ceilings = measure_ceilings(&device, self.again)?;
        let bar = show(ProgressBar::new(0));
        bar.set_style(ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} steps  {elapsed}  {eta} left")?);
        let profiled = profile::profile(device, &self.job, ceilings, &mut |progress| {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
        });
        bar.finish_and_clear();
        Ok(profiled?)
    }
}

impl Profile {
    pub(super) fn run(self) -> Result<ExitCode> {
        if let Some([before, after]) = self.compare.as_deref() {
            put(format_args!("{}", compare_files(before, after, self.group)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(file) = &self.scale.measure_network {
            measure_network(file)?;
            return Ok(ExitCode::SUCCESS);
        }
        #[cfg(feature = "cuda")]
        if self.fit {
            put(format_args!("{}", super::fit::table_of_batches(self.options.recompute.unwrap_or_default())))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut options = match &self.run {
            Some(folder) => self.options.clone().over_file(&RunFolder::open(folder)?.config())?,
            None => self.options.clone(),
        };
        let chosen = if self.scale.asked() { self.scale.choose(&mut options)? } else { None };
        [&self.json, &self.trace, &self.picture].into_iter().flatten().try_for_each(|file| check_writable(file))?;
        let tokenizer = tokenizer(&options)?;
        let base = match &self.run {
            Some(folder) => RunFolder::open(folder)?.model(&options)?,
            None => described(&options)?.model,
        };
        let mut settings = Settings::resolve(options, base, tokenizer.vocab_size())?;
        if let Some(chosen) = chosen {
            return self.simulated(&self.scale.simulate_chosen(&chosen, &settings)?);
        }
        if settings.micro_batches > 1 {
            let (count, rows) = (settings.micro_batches, settings.step_size().rows());
            put(format_args!(
                "one micro-batch of {rows} as a step of its own; a step of the run computes its towers {count} times, \
                 and its loss over the whole batch\n"
            ))?;
            (settings.loader.batch, settings.loader.streams, settings.micro_batches) = (rows, 1, 1);
        }
        let (data, model) = (settings.open_data(None)?, settings.model_name());
        let (warm_up, steps, time) = (2, self.count as usize, Duration::from_secs(self.seconds.into()));
        let job = profile::Job { settings: settings.clone(), data, tokenizer, model, warm_up, steps, time };
        let precision = job.settings.options.precision;
        let measurement = Measurement { job, again: self.ceilings, group: self.group };
        let found = self.device.run_in(precision, Precision::Bf16, measurement)?;
        if self.scale.asked() {
            let measured = profile::scale::Measured::from_profile(&found);
            return self.simulated(&self.scale.simulate(measured, "profiled here".to_owned(), &settings)?);
        }
        put(format_args!("{}", render(&found, self.group)))?;
        let trace = chrome_trace(&found).to_string();
        self.write([
            (&self.json, serde_json::to_string_pretty(&found)?),
            (&self.trace, trace),
            (&self.picture, svg(&found)),
        ])
    }

    /// Shows a simulation.
    fn simulated(&self, simulation: &Simulation) -> Result<ExitCode> {
        simulation.show()?;
        self.write([(&self.json, simulation.json()?), (&self.picture, simulation.picture())])
    }

    /// Writes the files that the user asked for.
    fn write<const N: usize>(&self, files: [(&Option<PathBuf>, String); N]) -> Result<ExitCode> {
        for (file, text) in files {
            if let Some(file) = file {
                std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
                put(format_args!("written: {}\n", file.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The files that `--compare` reads.
#[derive(Deserialize)]
#[serde(untagged)]
enum Saved {
    Step(profile::Profile),
    Ops(Benches),
}

fn read(file: &Path) -> Result<Saved> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        let file = file.display();
        format!("{file} is neither a profile that --json wrote nor what `cargo bench --bench ops` wrote")
    })
}

fn compare_files(before: &Path, after: &Path, by: Group) -> Result<String> {
    let problem = match (read(before)?, read(after)?) {
        (Saved::Step(before), Saved::Step(after)) => {
            let counted = by != Group::Kernel || ![&before, &after].iter().any(|step| step.kernels.is_empty());
            match counted {
                true => return Ok(compared(&before, &after, by)),
                false => NOT_COUNTED.to_owned(),
            }
        }
        (Saved::Ops(before), Saved::Ops(after)) => match after.incomparable(&before) {
            None => return Ok(benches::render(&after, Some(&before))),
            Some(problem) => problem,
        },
        _ => "one is a profile of a step, the other one of single ops".to_owned(),
    };
    bail!("{} and {} cannot be compared: {problem}", before.display(), after.display())
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

/// A rate in units of `unit` per second; `-` without any work.
fn rate(amount: u64, seconds: f64, unit: f64) -> String {
    if amount == 0 || seconds == 0.0 { "-".to_owned() } else { format!("{:.1}", amount as f64 / seconds / unit) }
}

fn render(found: &profile::Profile, by: Group) -> String {
    let profile::Profile { step_seconds, samples_per_second, ceilings, peak_memory_bytes, .. } = found;
    let row = |line: &Line| {
        let near = line.fraction().map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let share = format!("{:.1} %", 100.0 * line.seconds / step_seconds);
        let (flops, bytes) = (rate(line.flops, line.seconds, 1e12), rate(line.bytes, line.seconds, 1e9));
        let name = format!("{} {}", line.name, line.direction);
        [name, milliseconds(line.seconds), share, flops, bytes, line.bound.clone(), near]
    };
    let mut text = match by {
        Group::Kernel => kernels(&found.kernels),
        _ => {
            let lines = group(found, by);
            let rows: Vec<_> = lines.iter().map(row).collect();
            table(["", "ms", "step", "TFLOP/s", "GB/s", "bound by", "of limit"], &rows) + &moved(&lines)
        }
    };
    let totals: Vec<_> =
        found.totals.iter().map(|(part, seconds)| format!("{part} {} ms", milliseconds(*seconds))).collect();
    text += &format!("\n{}\n", totals.join(", "));
    text += &ceilings_line(ceilings);
    let list = |held: &[(String, usize)]| {
        let parts: Vec<_> = held.iter().map(|(what, bytes)| format!("{what} {}", Bytes(*bytes))).collect();
        parts.join(", ")
    };
    text += &format!("memory: {} ({})\n", Bytes(*peak_memory_bytes), list(&found.memory));
    text += &format!("activations, if no buffers shared memory: {}\n", list(&found.activations));
    if let (Some(training), Some(first)) = (found.training_step_seconds, found.first_step_seconds) {
        let difference = training - step_seconds;
        text += &format!(
            "step as trained: {:.2} ms; sum of ops: {:.2} ms; difference: {:+.2} ms ({:+.1} %); first step: {first:.2} s\n",
            1e3 * training,
            1e3 * step_seconds,
            1e3 * difference,
            100.0 * difference / step_seconds
        );
    }
    for (when, state) in &found.gpu {
        text += &format!("GPU {when}: {state}\n");
    }
    let of_sustained = ceilings.sustained_flops_per_second.map(|sustained| {
        let share = found.model_flop_utilisation * ceilings.flops_per_second / sustained;
        format!(" ({:.1} % of the sustained rate)", 100.0 * share)
    });
    text += &format!(
        "{}, mask ratio {}, batch {}, {}: {:.2} ms a step, {samples_per_second:.2} samples/s, {:.2} GFLOP a sample, \
         {:.1} % of the product ceiling{}\n",
        found.model,
        found.mask_ratio,
        found.batch,
        found.device,
        1e3 * found.training_step_seconds.unwrap_or(*step_seconds),
        found.model_flops_per_sample as f64 / 1e9,
        100.0 * found.model_flop_utilisation,
        of_sustained.unwrap_or_default()
    );
    text
}

fn ceilings_line(ceilings: &Ceilings) -> String {
    let kind = match ceilings.assumed {
        true => "assumed for an H100",
        false => "measured here once (--ceilings measures them again)",
    };
    let sustained = ceilings
        .sustained_flops_per_second
        .map_or_else(String::new, |rate| format!(" in the fastest product and {:.2} sustained", rate / 1e12));
    let (flops, bytes) = (ceilings.flops_per_second / 1e12, ceilings.bytes_per_second / 1e9);
    format!("ceilings, {kind}: {flops:.2} TFLOP/s{sustained}, {bytes:.1} GB/s\n")
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.2}", bytes as f64 / 1e6))
}

/// The bytes that each part moved next to the minimum, if the device counts them.
fn moved(lines: &[Line]) -> String {
    let row = |line: &Line| {
        let over = line.of_minimum().map_or_else(|| "-".to_owned(), |times| format!("{times:.2}"));
        [format!("{} {}", line.name, line.direction), megabytes(Some(line.bytes)), megabytes(line.moved_bytes), over]
    };
    match lines.iter().any(|line| line.moved_bytes.is_some()) {
        true => {
            "\n".to_owned()
                + &table(["", "MB minimum", "MB moved", "of minimum"], &lines.iter().map(row).collect::<Vec<_>>())
        }
        false => String::new(),
    }
}

/// The emulator's counts per kernel. Matrix products are not listed: on a GPU they are cuBLASLt's.
fn kernels(kernels: &[KernelCounts]) -> String {
    let row = |kernel: &KernelCounts| {
        let conflicts = match kernel.min_shared_passes {
            0 => "-".to_owned(),
            least => format!("{:.2}", kernel.shared_passes as f64 / least as f64),
        };
        [
            kernel.kernel.clone(),
            kernel.launches.to_string(),
            kernel.blocks.to_string(),
            kernel.threads.to_string(),
            kernel.shared_bytes.to_string(),
            format!("{:.1}", kernel.warp_instructions as f64 / 1e3),
            format!("{:.1}", kernel.mma_flops as f64 / 1e6),
            megabytes(Some(kernel.moved_bytes)),
            format!("{:.1}", kernel.shared_passes as f64 / 1e3),
            conflicts,
            format!("{:.1}", 1e6 * kernel.seconds),
            kernel.slowest.clone(),
        ]
    };
    let heads = [
        "",
        "launches",
        "blocks",
        "threads",
        "shared, B",
        "instr., k",
        "MFLOP",
        "MB moved",
        "passes, k",
        "of minimum",
        "us",
        "slowest",
    ];
    table(heads, &kernels.iter().map(row).collect::<Vec<_>>())
}

fn compared(before: &profile::Profile, after: &profile::Profile, by: Group) -> String {
    let seconds = |line: &Option<Line>| line.as_ref().map_or_else(|| "-".to_owned(), |line| milliseconds(line.seconds));
    let row = |(old, new): &(Option<Line>, Option<Line>)| {
        let line = new.as_ref().or(old.as_ref());
        let name =
            line.map_or_else(String::new, |line| format!("{} {}", line.name, line.direction).trim_end().to_owned());
        let factor = match (old, new) {
            (Some(old), Some(new)) if new.seconds > 0.0 => format!("{:.2}", old.seconds / new.seconds),
            _ => "-".to_owned(),
        };
        let moved = |line: &Option<Line>| megabytes(line.as_ref().and_then(|line| line.moved_bytes));
        [name, seconds(old), seconds(new), factor, moved(old), moved(new)]
    };
    let mut rows: Vec<_> = compare(before, after, by).iter().map(row).collect();
    let (old, new) = (before.step_seconds, after.step_seconds);
    let total = |found: &profile::Profile| {
        megabytes(found.scopes.iter().map(|scope| scope.moved_bytes).try_fold(0, |sum, moved| Some(sum + moved?)))
    };
    let factor = format!("{:.2}", old / new);
    rows.push(["step".to_owned(), milliseconds(old), milliseconds(new), factor, total(before), total(after)]);
    table(["", "before, ms", "after, ms", "times faster", "moved before, MB", "after, MB"], &rows)
}
