//! The times of one rank's step, from a profile or from the record of a GPU's measurements.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ScaleError;
use crate::autograd::{Layout, Step, Tape, Work};
use crate::device::Cpu;
use crate::model::Flip;
use crate::profile::{Ceilings, Profile};

/// An op's time in one direction.
#[derive(Clone, Debug, PartialEq)]
struct Timed {
    scope: String,
    direction: String,
    seconds: f64,
}

/// Times of a step on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The device.
    pub device: String,
    /// The preset.
    pub model: String,
    /// Share of patches left out.
    pub mask_ratio: f64,
    /// Pairs of the step.
    pub batch: usize,
    /// Seconds of a step as training runs it, if that was measured.
    pub training_step_seconds: Option<f64>,
    /// Whether times are estimates.
    pub estimated: bool,
    /// Whether a bf16 copy of the weights is kept.
    pub bf16_copy: bool,
    /// How the times of layers came about.
    pub layers: String,
    #[serde(skip)]
    ceilings: Ceilings,
    #[serde(skip)]
    scopes: Vec<Timed>,
}

/// A step in the record of a GPU's measurements (`benches/results/gpu-h200.json`).
#[derive(Clone, Debug, Deserialize)]
struct RecordedStep {
    model: String,
    mask_ratio: f64,
    batch: usize,
    training_step_seconds: f64,
    ceilings: Ceilings,
    ops: Vec<RecordedOp>,
}

/// All calls of an op in one direction.
#[derive(Clone, Debug, Deserialize)]
struct RecordedOp {
    op: String,
    direction: String,
    seconds: f64,
}

#[derive(Deserialize)]
struct Record {
    card: String,
    steps: Vec<RecordedStep>,
}

/// A file with times: what `flipk profile --json` wrote, or the record of a GPU's measurements.
#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Profile(Box<Profile>),
    Record(Record),
}

/// Times of which the step for a model and a mask ratio can be chosen.
pub struct Source(File);

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is neither kind.
    pub fn parse(text: &str) -> Result<Self, ScaleError> {
        Ok(Self(serde_json::from_str(text).map_err(|_| ScaleError::Times)?))
    }

    /// The steps: model, mask ratio and batch.
    pub fn steps(&self) -> Vec<(&str, f64, usize)> {
        match &self.0 {
            File::Profile(profile) => vec![(&profile.model, profile.mask_ratio, profile.batch)],
            File::Record(record) => {
                record.steps.iter().map(|step| (step.model.as_str(), step.mask_ratio, step.batch)).collect()
            }
        }
    }

    /// Whether this is a record of a GPU's measurements.
    pub fn is_record(&self) -> bool {
        matches!(self.0, File::Record(_))
    }

    /// The step at this index of [`Self::steps`]. `flip` is its model, `kept` the number of visible patches per image.
    ///
    /// # Errors
    /// If there is none, or the model cannot be planned.
    pub fn measured(&self, index: usize, flip: &Flip, kept: usize) -> Result<Measured, ScaleError> {
        match &self.0 {
            File::Profile(profile) => Ok(Measured::from_profile(profile)),
            File::Record(record) => {
                let step = record.steps.get(index).ok_or(ScaleError::Times)?;
                Measured::recorded(&record.card, step, flip, kept)
            }
        }
    }

    /// The step of another `model`, with its name, estimated from the one at `index` of the model `of`: each kind of op
    /// takes time in proportion to its work. The models come with the numbers of visible patches per image.
    ///
    /// # Errors
    /// As [`Self::measured`], and if the file is a profile.
    pub fn estimated(
        &self,
        index: usize,
        (of, kept_of): (&Flip, usize),
        (name, flip, kept): (&str, &Flip, usize),
    ) -> Result<Measured, ScaleError> {
        let File::Record(record) = &self.0 else { return Err(ScaleError::Times) };
        let step = record.steps.get(index).ok_or(ScaleError::Times)?;
        let (known, wanted) = (work_of_calls(of, kept_of)?, work_of_calls(flip, kept)?);
        let more = |same: &dyn Fn(&Call) -> bool| {
            let sum = |calls: &[Call]| calls.iter().filter(|call| same(call)).map(|call| call.work).sum::<f64>();
            if sum(&known) > 0.0 { sum(&wanted) / sum(&known) } else { 1.0 }
        };
        let parameters = flip.layout().arena_len() as f64 / of.layout().arena_len() as f64;
        let mut scaled = step.clone();
        for op in &mut scaled.ops {
            op.seconds *= match op.direction.as_str() {
                "update" => parameters,
                _ => more(&|call| call.name == current_name(&op.op) && call.direction == op.direction),
            };
        }
        let sum = |step: &RecordedStep| step.ops.iter().map(|op| op.seconds).sum::<f64>();
        scaled.training_step_seconds *= sum(&scaled) / sum(step);
        let of = std::mem::replace(&mut scaled.model, name.to_owned());
        let measured = Measured::recorded(&record.card, &scaled, flip, kept)?;
        let layers = format!("from {of}, each kind of op in proportion to its work, and divided among layers by work");
        Ok(Measured { estimated: true, layers, ..measured })
    }
}

impl Measured {
    /// Whether the device is a GPU.
    pub fn on_gpu(&self) -> bool {
        !self.device.starts_with("cpu")
    }

    /// The times of a profile.
    pub fn from_profile(profile: &Profile) -> Self {
        let scopes = profile.scopes.iter().map(|scope| Timed {
            scope: scope.scope.clone(),
            direction: scope.direction.clone(),
            seconds: scope.seconds,
        });
        let copy = profile.memory.iter().any(|(what, _)| what == "compute copy of weights");
        Self {
            device: profile.device.clone(),
            model: profile.model.clone(),
            mask_ratio: profile.mask_ratio,
            batch: profile.batch,
            training_step_seconds: profile.training_step_seconds,
            estimated: profile.ceilings.assumed,
            bf16_copy: copy,
            layers: "op by op".to_owned(),
            ceilings: profile.ceilings,
            scopes: scopes.collect(),
        }
    }

    /// Divides the time of each kind of op among its calls by their work.
    fn recorded(card: &str, step: &RecordedStep, flip: &Flip, kept: usize) -> Result<Self, ScaleError> {
        let mut scopes = Vec::new();
        let calls = work_of_calls(flip, kept)?;
        for Call { name, direction, scope, work } in &calls {
            let same = |other: &&Call| other.name == *name && other.direction == *direction;
            let all: f64 = calls.iter().filter(same).map(|call| call.work).sum();
            let of_kind = step.ops.iter().filter(|op| current_name(&op.op) == name && op.direction == *direction);
            let seconds: f64 = of_kind.map(|op| op.seconds).sum::<f64>() * if all > 0.0 { work / all } else { 0.0 };
            scopes.push(Timed { scope: scope.clone(), direction: (*direction).to_owned(), seconds });
        }
        let update = step.ops.iter().filter(|op| op.direction == "update").map(|op| op.seconds).sum();
        scopes.push(Timed { scope: "optimizer".to_owned(), direction: "update".to_owned(), seconds: update });
        Ok(Self {
            device: format!("{card}, bf16"),
            model: step.model.clone(),
            mask_ratio: step.mask_ratio,
            batch: step.batch,
            training_step_seconds: Some(step.training_step_seconds),
            estimated: false,
            bf16_copy: true,
            layers: "each kind of op measured, and divided among layers by work".to_owned(),
            ceilings: step.ceilings,
            scopes,
        })
    }
}

/// The name that an op of the record has now.
fn current_name(op: &str) -> &str {
    if op == "first_tokens" { "select_token" } else { op }
}

/// A call of an op in a step.
struct Call {
    name: String,
    direction: &'static str,
    scope: String,
    /// FLOPs, or bytes of an op without products.
    work: f64,
}

/// The calls of a step, in the order in which they run. Only shares and ratios of the work are used, and these hardly
/// depend on the batch, so a small one is planned.
fn work_of_calls(flip: &Flip, kept: usize) -> Result<Vec<Call>, ScaleError> {
    const BATCH: usize = 2;
    let mut tape = Tape::<Cpu>::new(flip.layout().clone());
    flip.record(&mut tape, BATCH, kept);
    let program = tape.train(Cpu::default().into())?;
    // Calls of one kind of op all have products, or none has.
    let amount = |work: Work| if work.flops > 0 { work.flops as f64 } else { work.bytes as f64 };
    let calls = program.steps().iter().filter_map(|step| {
        let (op, direction) = match *step {
            Step::Forward(op) => (op, "forward"),
            Step::Backward(op) => (op, "backward"),
            _ => return None,
        };
        let (name, scope, cost) = program.op(op);
        let work = if direction == "forward" { cost.forward } else { cost.backward };
        Some(Call { name: name.to_owned(), direction, scope: scope.to_owned(), work: amount(work) })
    });
    Ok(calls.collect())
}

/// A part of the backward pass after which some gradients are complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `vision/block_03/mlp`
    pub name: String,
    /// Seconds of its backward pass.
    pub seconds: f64,
    /// Elements of the arena whose gradients are complete after it.
    pub elements: usize,
}

/// The times of one rank's step, for some batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    /// Pairs of the rank.
    pub batch: usize,
    /// Seconds of the vision and of the text tower, forwards.
    pub forward: [f64; 2],
    /// Seconds of the loss over the rank's own pairs alone, forwards and backwards.
    pub loss: [f64; 2],
    /// The layers in the order of the backward pass.
    pub backward: Vec<Layer>,
    /// Seconds of an update of all weights.
    pub update: f64,
    /// FLOP/s of products in a loss over more pairs; `None` if the loss takes time in proportion to its pairs.
    pub loss_rate: Option<f64>,
    /// Bytes per second of sums over gradients.
    pub memory_rate: f64,
}

/// The share of the ceiling that the products of the losses are assumed to reach on a GPU.
const LOSS_OF_CEILING: f64 = 0.76;
/// Products of f16 halves that make one in f32, on a GPU.
const PRODUCTS_OF_HALVES: f64 = 3.0;

impl StepTimes {
    /// Times of a step with `batch` pairs. If the measured step had another number, the towers take time in proportion,
    /// which was not measured, and the loss in proportion to its square.
    pub fn new(measured: &Measured, layout: &Layout, batch: usize) -> Self {
        let with = |of: &dyn Fn(&Timed) -> bool| -> f64 {
            measured.scopes.iter().filter(|timed| of(timed)).map(|timed| timed.seconds).sum()
        };
        // The upload overlaps with the step before.
        let is_upload = |timed: &Timed| timed.scope == "upload";
        let ops = with(&|timed| !is_upload(timed));
        let trained = measured.training_step_seconds.filter(|_| ops > 0.0).map_or(1.0, |seconds| seconds / ops);
        let more = batch as f64 / measured.batch.max(1) as f64;
        let forward =
            |tower: &str| trained * more * with(&|timed| timed.direction == "forward" && in_part(&timed.scope, tower));
        let loss = |direction| {
            trained * more * more * with(&|timed| timed.direction == direction && in_part(&timed.scope, "loss"))
        };
        Self {
            batch,
            forward: [forward("vision"), forward("text")],
            loss: [loss("forward"), loss("backward")],
            backward: layers(&measured.scopes, layout, trained * more),
            update: trained * with(&|timed| timed.direction == "update"),
            loss_rate: measured
                .on_gpu()
                .then(|| measured.ceilings.flops_per_second * LOSS_OF_CEILING / PRODUCTS_OF_HALVES),
            memory_rate: measured.ceilings.bytes_per_second,
        }
    }

    /// Seconds of the loss of the rank's pairs against `columns` pairs of all ranks, forwards and backwards. Each rank
    /// has rows by image and by text: two products of `2 batch columns width` FLOPs forwards, four backwards.
    pub fn loss_over(&self, columns: usize, width: usize) -> [f64; 2] {
        let times = columns as f64 / self.batch.max(1) as f64;
        let product = 2.0 * (self.batch * width) as f64 * columns.saturating_sub(self.batch) as f64;
        match self.loss_rate {
            None => self.loss.map(|seconds| seconds * times),
            Some(rate) => [self.loss[0] + 2.0 * product / rate, self.loss[1] + 4.0 * product / rate],
        }
    }

    /// Seconds of the backward pass of the towers.
    pub fn towers_backward(&self) -> f64 {
        self.backward.iter().map(|layer| layer.seconds).sum()
    }

    /// Seconds of a step of one rank without others.
    pub fn alone(&self) -> f64 {
        self.forward.iter().chain(&self.loss).sum::<f64>() + self.towers_backward() + self.update
    }
}

fn in_part(scope: &str, part: &str) -> bool {
    scope.split('/').next() == Some(part)
}

/// The backward pass of the towers, layer by layer.
fn layers(scopes: &[Timed], layout: &Layout, factor: f64) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let towers = |timed: &&Timed| ["vision", "text"].iter().any(|tower| in_part(&timed.scope, tower));
    let backward = |timed: &&Timed| timed.direction == "backward" || timed.direction == "recompute";
    for timed in scopes.iter().filter(towers).filter(backward) {
        let name = timed.scope.split('/').take(3).collect::<Vec<_>>().join("/");
        let seconds = factor * timed.seconds;
        match layers.last_mut().filter(|last| last.name == name) {
            Some(last) => last.seconds += seconds,
            None => layers.push(Layer { name, seconds, elements: 0 }),
        }
    }
    let last = layers.len().saturating_sub(1);
    for (name, range) in parameters(layout) {
        let layer = layer_of(name);
        let at = layers.iter().rposition(|found| found.name == layer).unwrap_or(last);
        if let Some(found) = layers.get_mut(at) {
            found.elements += range.len();
        }
    }
    layers
}

/// The parameters, each with the padding after it.
fn parameters(layout: &Layout) -> impl Iterator<Item = (&str, Range<usize>)> {
    let ends = layout.specs().iter().skip(1).map(|spec| spec.offset).chain([layout.arena_len()]);
    layout.specs().iter().zip(ends).map(|(spec, end)| (spec.name.as_str(), spec.offset..end))
}

/// The layer that a parameter belongs to, as a profile names it.
fn layer_of(parameter: &str) -> String {
    let (tower, rest) = match parameter.strip_prefix("visual.") {
        Some(rest) => ("vision", rest),
        None => ("text", parameter),
    };
    let block = rest.split_once("resblocks.").and_then(|(_, rest)| {
        let (block, rest) = rest.split_once('.')?;
        Some((block.parse::<usize>().ok()?, rest.split('.').next()?))
    });
    match (block, rest) {
        (Some((block, "attn")), _) => format!("{tower}/block_{block:02}/attention"),
        (Some((block, "mlp")), _) => format!("{tower}/block_{block:02}/mlp"),
        (Some((block, _)), _) => format!("{tower}/block_{block:02}"),
        (None, "proj" | "text_projection" | "logit_scale" | "logit_bias") => format!("{tower}/project"),
        (None, rest) if rest.starts_with("ln_post") || rest.starts_with("ln_final") => format!("{tower}/final_norm"),
        _ => format!("{tower}/embed"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Preset;

    /// Two layers of a million weights each, on a device whose sums cost nothing.
    pub(crate) fn two_layers() -> StepTimes {
        let layer = |name: &str, seconds| Layer { name: name.to_owned(), seconds, elements: 1_000_000 };
        StepTimes {
            batch: 10,
            forward: [3.0, 1.0],
            loss: [0.25, 0.5],
            backward: vec![layer("text/block_00", 2.0), layer("vision/block_00", 6.0)],
            update: 1.0,
            loss_rate: Some(f64::INFINITY),
            memory_rate: f64::INFINITY,
        }
    }

    /// The record's times are divided, and none is lost; each parameter is in a layer that its tower has.
    #[test]
    fn the_record_of_a_gpu_is_divided_among_layers() {
        let text = std::fs::read_to_string("benches/results/gpu-h200.json").unwrap();
        let source = Source::parse(&text).unwrap();
        let index = source.steps().iter().position(|step| *step == ("b16", 0.5, 1024)).unwrap();
        let flip = Flip::new(&Preset::B16.config(), true);
        let measured = source.measured(index, &flip, 98).unwrap();
        let sum: f64 = measured.scopes.iter().map(|timed| timed.seconds).sum();
        assert!((sum - 0.120_926_85).abs() < 1e-6, "{sum}");
        let times = StepTimes::new(&measured, flip.layout(), 1024);
        assert!((times.alone() - 0.130_635).abs() < 1e-6, "{}", times.alone());
        let layers = &times.backward;
        assert_eq!(layers.iter().map(|layer| layer.elements).sum::<usize>(), flip.layout().arena_len());
        assert!(layers[0].name.starts_with("text/") && layers.last().unwrap().name == "vision/embed");
        let block = |name| layers.iter().rfind(|layer| layer.name == name).unwrap();
        // 4 and 8 width² weights, biases, and two norms.
        let blocks = ["vision/block_03/attention", "vision/block_03/mlp", "vision/block_03"];
        assert_eq!(blocks.map(|name| block(name).elements.div_ceil(1000)), [2_363, 4_723, 4]);
        assert_eq!(block("text/embed").elements, 30_523 * 512 + 32 * 512);
        // The record has one block op by op: its sum should be near.
        let recorded: f64 = serde_json::from_str::<serde_json::Value>(&text).unwrap()["steps"][index]["block_05"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|op| op["direction"] == "backward")
            .map(|op| op["seconds"].as_f64().unwrap())
            .sum();
        let of_block = layers.iter().filter(|layer| layer.name.starts_with("vision/block_05"));
        let share = of_block.map(|layer| layer.seconds).sum::<f64>() / (recorded * times.alone() / sum);
        assert!((0.85..1.15).contains(&share), "{share}");
        // Half of the batch: half the time, but for the update, and for the loss.
        let half = StepTimes::new(&measured, flip.layout(), 512);
        let towers = |times: &StepTimes| times.forward[0] + times.forward[1] + times.towers_backward();
        assert!((towers(&half) / towers(&times) - 0.5).abs() < 1e-9 && half.update == times.update);
        assert!((half.loss[1] / times.loss[1] - 0.25).abs() < 1e-9);
    }

    #[test]
    fn a_loss_over_more_pairs_takes_its_products() {
        let mut times = two_layers();
        times.loss_rate = Some(1000.0);
        // 10 rows, 30 more columns, width 2: 1200 FLOPs a product.
        assert_eq!(times.loss_over(40, 2), [0.25 + 2.4, 0.5 + 4.8]);
        assert_eq!(times.loss_over(10, 2), [0.25, 0.5]);
        times.loss_rate = None;
        assert_eq!(times.loss_over(40, 2), [1.0, 2.0]);
    }

    #[test]
    fn other_files_are_refused() {
        for text in ["", "{}", "{\"steps\": []}"] {
            assert!(matches!(Source::parse(text), Err(ScaleError::Times)));
        }
    }
}
