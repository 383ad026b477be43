//! `flipk profile --ranks`: a step on many ranks, simulated; `--measure-network`: what connects them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::put;
use super::table::table;
use crate::data::kept_patches;
use crate::model::{Flip, Preset};
use crate::profile::scale::{
    Measured, Network, Plan, Simulated, Source, StepTimes, Timing, fit, network_of, simulate, svg, time_calls,
};
use crate::train::{Options, Settings, StepSize};
use crate::units::Bytes;

#[derive(Args)]
pub(super) struct ScaleArgs {
    /// Simulate a step of data-parallel training on these numbers of ranks (8,64,256), from the times of one rank's
    /// step, whose batch is --batch. --json and --picture then write the simulation
    #[arg(long, value_name = "N,...", value_delimiter = ',', conflicts_with_all = ["compare", "trace", "run"])]
    ranks: Vec<usize>,
    /// What connects the ranks: h100-ib400 (eight GPUs a node with NVLink, 400 Gb/s of InfiniBand for each), local-mpi
    /// (ranks on one machine), or a file in TOML or JSON with such numbers (`network` in what --json writes) [default:
    /// h100-ib400, or local-mpi with a CPU's times]
    #[arg(long, value_name = "NAME|FILE", requires = "ranks")]
    network: Option<String>,
    /// Take the times from a profile that --json wrote, or from benches/results/gpu-h200.json, and run nothing. If it
    /// has several steps, --model and --mask-ratio choose one; times of a model that a record does not have are
    /// estimated from its last step at that mask ratio. With another --batch, times are scaled
    #[arg(long, value_name = "FILE", requires = "ranks")]
    from: Option<PathBuf>,
    /// Time exchanges through the host between this run's ranks, write the network that fits them (JSON), and run
    /// nothing else; NCCL is not timed. For mpiexec: mpiexec -n 4 flipk profile --measure-network network.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ranks", "compare"])]
    pub(super) measure_network: Option<PathBuf>,
}

/// Measures the network between the ranks that a launcher has started; rank 0 writes `file`.
pub(super) fn measure_network(file: &Path) -> Result<()> {
    let group = super::launch::group()?;
    if group.size() < 2 {
        bail!("--measure-network needs several ranks: mpiexec -n 4 flipk profile --measure-network {}", file.display());
    }
    let timings = time_calls(&*group)?;
    if !group.is_root() {
        return Ok(());
    }
    let network = network_of(&*group, &timings);
    let (latency, rate) = fit(&timings);
    let row = |pair: &[Timing]| {
        let predicted = latency + pair[0].bytes / rate;
        let milliseconds = |seconds: f64| format!("{:.3}", 1e3 * seconds);
        [
            format!("{:.0}", pair[0].bytes),
            milliseconds(pair[0].seconds),
            milliseconds(pair[1].seconds),
            milliseconds(predicted),
        ]
    };
    let rows: Vec<_> = timings.as_chunks::<2>().0.iter().map(|pair| row(pair)).collect();
    let text = serde_json::to_string_pretty(&network)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    put(format_args!(
        "{}\n{}latency {:.1} us, {:.3} GB/s received by each rank\nwritten: {}\n",
        network.name,
        table(["bytes to a rank", "all-gather, ms", "exchange, ms", "fit, ms"], &rows),
        1e6 * latency,
        rate / 1e9,
        file.display()
    ))
}

/// A file with times, and the step that is used.
pub(super) struct Chosen {
    source: Source,
    index: usize,
    /// The model of the step, if that of another one, with this name, is estimated from it.
    estimate: Option<(Preset, String)>,
}

/// For a model that a record of a GPU's measurements does not have: the index of its last step at that mask ratio, the
/// model of that step, from which the times are estimated, and the name of the model that was asked for.
fn nearest(source: &Source, options: &Options) -> Option<(usize, (Preset, String))> {
    let asked = options.model.as_ref()?.short_name().to_string();
    let steps = source.is_record().then(|| source.steps())?;
    if steps.iter().any(|(model, ..)| *model == asked) {
        return None;
    }
    let index = steps.iter().rposition(|(_, ratio, _)| options.mask_ratio.is_none_or(|asked| asked == *ratio))?;
    let preset = Preset::ALL.into_iter().find(|preset| preset.to_string() == steps[index].0)?;
    Some((index, (preset, asked)))
}

/// Maximum number of ranks: a simulation lists them all.
const MAX_RANKS: usize = 1 << 16;

impl ScaleArgs {
    /// Whether a step is to be simulated.
    pub(super) fn asked(&self) -> bool {
        !self.ranks.is_empty()
    }

    /// Chooses a step from the file of `--from`, and fills in the options that were left open.
    pub(super) fn choose(&self, options: &mut Options) -> Result<Option<Chosen>> {
        if !self.ranks.iter().all(|ranks| (1..=MAX_RANKS).contains(ranks)) {
            bail!("--ranks must be from 1 to {MAX_RANKS}");
        }
        if options.micro_batches.is_some_and(|count| count > 1) {
            bail!("--ranks takes one micro-batch per rank: leave out --micro-batches");
        }
        let Some(file) = &self.from else { return Ok(None) };
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let source = Source::parse(&text).with_context(|| file.display().to_string())?;
        let asked = options.model.as_ref().map(|model| model.short_name());
        let fits = |model: &str, ratio: f64| {
            asked.as_ref().is_none_or(|asked| asked == model) && options.mask_ratio.is_none_or(|asked| asked == ratio)
        };
        let steps = source.steps();
        let exact = steps.iter().position(|(model, ratio, _)| fits(model, *ratio));
        let nearest = || nearest(&source, options).map(|(index, estimate)| (index, Some(estimate)));
        let Some((index, estimate)) = exact.map(|index| (index, None)).or_else(nearest) else {
            let list: Vec<_> = steps.iter().map(|(model, ratio, _)| format!("{model} at {ratio}")).collect();
            bail!("{} has no such --model and --mask-ratio: it has {}", file.display(), list.join(", "))
        };
        let (model, ratio, batch) = steps[index];
        if options.model.is_none() {
            let problem = || format!("{} is of the model {model}: give it with --model", file.display());
            options.model = Some(model.parse().map_err(anyhow::Error::msg).with_context(problem)?);
        }
        options.mask_ratio.get_or_insert(ratio);
        options.batch.get_or_insert(batch);
        Ok(Some(Chosen { source, index, estimate }))
    }

    /// The description of the network.
    fn network(&self, measured: &Measured) -> Result<Network> {
        let name = self.network.as_deref().unwrap_or(if measured.on_gpu() { "h100-ib400" } else { "local-mpi" });
        if let Some(network) = Network::built_in(name) {
            return Ok(network);
        }
        let names = Network::BUILT_IN.join(", ");
        let text = std::fs::read_to_string(name)
            .with_context(|| format!("--network {name} is neither built in ({names}) nor a file"))?;
        let mut network = Network::parse(&text).with_context(|| format!("--network {name}"))?;
        if network.name.is_empty() {
            name.clone_into(&mut network.name);
        }
        Ok(network)
    }

    /// Simulates the step of a file.
    pub(super) fn simulate_chosen(&self, chosen: &Chosen, settings: &Settings) -> Result<Simulation> {
        let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
        let kept = settings.loader.kept();
        let measured = match &chosen.estimate {
            None => chosen.source.measured(chosen.index, &flip, kept)?,
            Some((of, name)) => {
                let config = of.config();
                let kept_of = kept_patches(config.patches(), settings.loader.mask_ratio);
                let of = Flip::with_loss(&config, settings.loss, settings.decay_cls);
                chosen.source.estimated(chosen.index, (&of, kept_of), (name, &flip, kept))?
            }
        };
        let from = self.from.as_deref().unwrap_or(Path::new("")).display().to_string();
        self.simulate(measured, from, settings)
    }

    /// Simulates steps with the times of `measured`, which are from `source`.
    pub(super) fn simulate(&self, measured: Measured, source: String, settings: &Settings) -> Result<Simulation> {
        let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
        let size = StepSize { micro_batches: 1, ..settings.step_size() };
        let network = self.network(&measured)?;
        let times = StepTimes::new(&measured, flip.layout(), size.batch);
        let (gpus, bf16_copy) = (measured.on_gpu(), measured.bf16_copy);
        let plan = Plan { flip: &flip, size, times, network, gpus, bf16_copy };
        let steps = self.ranks.iter().map(|&ranks| simulate(&plan, ranks)).collect();
        let alone = plan.times.alone();
        Ok(Simulation { measured, source, batch: size.batch, alone, network: plan.network, steps })
    }
}

/// Simulated steps, and what they were simulated from.
pub(super) struct Simulation {
    measured: Measured,
    source: String,
    batch: usize,
    alone: f64,
    network: Network,
    steps: Vec<Simulated>,
}

impl Simulation {
    /// Prints the tables.
    pub(super) fn show(&self) -> Result<()> {
        put(format_args!("{}\n{}\n{}\n{}", self.heading(), self.speed(), self.memory(), self.traffic()))
    }

    fn title(&self) -> String {
        let Measured { model, mask_ratio, device, .. } = &self.measured;
        format!("{model}, mask ratio {mask_ratio}, batch {} a rank, {device}, {}", self.batch, self.network.name)
    }

    fn heading(&self) -> String {
        let Measured { batch, training_step_seconds, estimated, layers, .. } = &self.measured;
        let kind = match (estimated, training_step_seconds) {
            (true, _) => "estimated",
            (false, Some(_)) => "measured as training runs it",
            (false, None) => "measured",
        };
        let scaled = match *batch == self.batch {
            true => String::new(),
            false => format!(", scaled from batch {batch} in proportion, which was not measured"),
        };
        format!(
            "simulated, not measured: {}\n\
             one rank alone: {:.2} ms a step, {kind} ({}; {layers}){scaled}\n",
            self.title(),
            1e3 * self.alone,
            self.source,
        )
    }

    fn name(step: &Simulated) -> String {
        format!("{} ranks", step.ranks)
    }

    fn speed(&self) -> String {
        let row = |step: &Simulated| {
            let milliseconds = |seconds: f64| format!("{:.2}", 1e3 * seconds);
            [
                Self::name(step),
                step.batch.to_string(),
                milliseconds(step.step_seconds),
                milliseconds(step.exposed_seconds),
                milliseconds(step.waiting_seconds),
                milliseconds(step.loss_seconds),
                format!("{:.3}", step.efficiency),
                format!("{:.0}", step.samples_per_second),
                format!("{:.0}", step.samples_per_second_and_rank),
            ]
        };
        let head =
            ["", "batch", "ms a step", "exposed", "waiting", "loss", "efficiency", "samples/s", "a rank's loader"];
        table(head, &self.steps.iter().map(row).collect::<Vec<_>>())
    }

    fn memory(&self) -> String {
        let row = |step: &Simulated| {
            let of = |names: &[&str]| {
                let held = step.memory.iter().filter(|held| names.contains(&held.what));
                Bytes(held.map(|held| held.bytes).sum()).to_string()
            };
            [
                Self::name(step),
                of(&["weights", "weights in bf16"]),
                of(&["gradients"]),
                of(&["moments"]),
                of(&["activations"]),
                of(&["gathered embeddings"]),
                of(&["exchange buffers"]),
                Bytes(step.memory_bytes()).to_string(),
            ]
        };
        let head =
            ["memory of a rank", "weights", "gradients", "moments", "activations", "embeddings", "exchange", "all"];
        table(head, &self.steps.iter().map(row).collect::<Vec<_>>())
    }

    fn traffic(&self) -> String {
        let megabytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
        let row = |step: &Simulated| {
            let of = |kinds: &[&str]| {
                megabytes(step.sent.iter().filter(|sent| kinds.contains(&sent.kind)).map(|sent| sent.bytes).sum())
            };
            let (all, between) = step.sent_bytes();
            [
                Self::name(step),
                of(&["embeddings"]),
                of(&["log-sum-exps and counts", "gradient norm"]),
                of(&["gradients"]),
                of(&["weights in bf16"]),
                of(&["weights in f32"]),
                megabytes(all),
                megabytes(between),
            ]
        };
        let head = [
            "MB that a rank sends",
            "embeddings",
            "numbers",
            "gradients",
            "weights in bf16",
            "in f32",
            "all",
            "to other nodes",
        ];
        table(head, &self.steps.iter().map(row).collect::<Vec<_>>())
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Result<String> {
        let Self { measured, source, batch, alone, network, steps } = self;
        let all = json!({
            "simulated": true,
            "times": measured,
            "source": source,
            "batch_of_a_rank": batch,
            "one_rank_seconds": alone,
            "network": network,
            "steps": steps,
        });
        Ok(serde_json::to_string_pretty(&all)?)
    }

    /// For `--picture`.
    pub(super) fn picture(&self) -> String {
        svg(&self.steps, &self.title())
    }
}
