//! An op from outside the crate: LayerScale, `y = x ∘ γ`, which multiplies each column by a learnt factor (Touvron et
//! al. 2021). Records it behind a linear layer, and compares every gradient with central differences.
//!
//! ```sh
//! cargo run --release --example new_op
//! ```

use std::error::Error;
use std::sync::Arc;

use flipk::autograd::{
    Access, Backward, Cost, Init, Layout, Op, ParamGrad, ParamId, Parameters, Program, Slot, Tape, Var, Work,
};
use flipk::device::{Cpu, Device, DeviceError};
use flipk::ops::linear::Weights;
use flipk::random::{Purpose, Random};

/// Devices that have LayerScale. The op is generic over them, so another device needs only this trait.
trait LayerScale: Device {
    /// `x: [rows, width], gamma: [width] -> y: [rows, width]`.
    fn layer_scale_forward(
        &self,
        x: Self::View<'_, Self::Act>,
        gamma: Self::View<'_, f32>,
        y: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// `dx = dy ∘ γ`, `[rows, width]`.
    fn layer_scale_backward_x(
        &self,
        dy: Self::View<'_, Self::Act>,
        gamma: Self::View<'_, f32>,
        dx: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// `dγ = Σ_rows dy ∘ x`, `[width]`; `accumulate` adds it to what is there.
    fn layer_scale_backward_gamma(
        &self,
        dy: Self::View<'_, Self::Act>,
        x: Self::View<'_, Self::Act>,
        dgamma: Self::ViewMut<'_, f32>,
        accumulate: bool,
    ) -> Result<(), DeviceError>;
}

impl LayerScale for Cpu {
    fn layer_scale_forward(&self, x: &[f32], gamma: &[f32], y: &mut [f32]) -> Result<(), DeviceError> {
        for (x, y) in x.chunks_exact(gamma.len()).zip(y.chunks_exact_mut(gamma.len())) {
            y.iter_mut().zip(x.iter().zip(gamma)).for_each(|(y, (x, gamma))| *y = x * gamma);
        }
        Ok(())
    }

    fn layer_scale_backward_x(&self, dy: &[f32], gamma: &[f32], dx: &mut [f32]) -> Result<(), DeviceError> {
        self.layer_scale_forward(dy, gamma, dx)
    }

    fn layer_scale_backward_gamma(
        &self,
        dy: &[f32],
        x: &[f32],
        dgamma: &mut [f32],
        accumulate: bool,
    ) -> Result<(), DeviceError> {
        if !accumulate {
            dgamma.fill(0.0);
        }
        for (dy, x) in dy.chunks_exact(dgamma.len()).zip(x.chunks_exact(dgamma.len())) {
            dgamma.iter_mut().zip(dy.iter().zip(x)).for_each(|(sum, (dy, x))| *sum += dy * x);
        }
        Ok(())
    }
}

struct LayerScaleOp<D: Device> {
    x: Var<D::Act>,
    gamma: ParamId,
    y: Var<D::Act>,
    /// Numbers in `x`.
    len: usize,
    back: Option<Planned<D>>,
}

/// What the backward pass reads and writes.
struct Planned<D: Device> {
    dy: Slot<D::Act>,
    /// `None` if `x` needs no gradient.
    dx: Option<Slot<D::Act>>,
    dgamma: ParamGrad,
}

/// Records the op. `x: [..., width], gamma: [width] -> [..., width]`.
fn layer_scale<D: LayerScale>(tape: &mut Tape<D>, x: Var<D::Act>, gamma: ParamId) -> Var<D::Act> {
    let y = tape.result_like(x);
    let len = tape.shape(x).iter().product();
    tape.record(LayerScaleOp { x, gamma, y, len, back: None }, &[x.id()]);
    y
}

impl<D: LayerScale> Op<D> for LayerScaleOp<D> {
    fn name(&self) -> &'static str {
        "layer_scale"
    }

    fn cost(&self) -> Cost {
        let tensors = |count: usize| Work { flops: 0, bytes: (count * self.len * size_of::<D::Act>()) as u64 };
        let backward = self.back.as_ref().map_or(0, |back| 2 + if back.dx.is_some() { 2 } else { 0 });
        Cost { forward: tensors(2), backward: tensors(backward) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.layer_scale_forward(on.read(self.x.slot()), on.master(self.gamma), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dy) = plan.grad(self.y) else { return false };
        plan.read(self.x.slot());
        self.back = Some(Planned { dy, dx: plan.input_grad(self.x), dgamma: plan.param(self.gamma) });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let dy = on.read(back.dy);
        if let Some(dx) = back.dx {
            device.layer_scale_backward_x(dy, on.master(self.gamma), on.write(dx))?;
        }
        let dgamma = on.grad(back.dgamma);
        device.layer_scale_backward_gamma(dy, on.read(self.x.slot()), dgamma.view, dgamma.accumulate)
    }
}

const ROWS: usize = 5;
const INPUTS: usize = 7;
const WIDTH: usize = 6;
/// Half the distance of a central difference. The loss is linear in each number, so rounding is the only error.
const STEP: f32 = 1e-2;
/// The largest difference that rounding explains, as a share of the largest gradient.
const TOLERANCE: f64 = 1e-3;

/// The program with what the host writes and reads.
struct Model {
    device: Arc<Cpu>,
    params: Parameters<Cpu>,
    program: Program<Cpu>,
    x: Var<f32>,
    y: Var<f32>,
    seed: Slot<f32>,
    /// The gradient of `y`: the loss is the sum of `dy ∘ y`.
    dy: Vec<f32>,
}

impl Model {
    fn loss(&mut self, x: &[f32], values: &[f32]) -> Result<f64, DeviceError> {
        self.params.set_values(&self.device, values)?;
        self.program.write(self.x.slot(), x)?;
        self.program.write(self.seed, &self.dy)?;
        self.program.forward(&self.params)?;
        let y = self.program.read(self.y.slot())?;
        Ok(y.iter().zip(&self.dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum())
    }
}

/// The largest difference of `grads` from the central differences of `loss`, as a share of the largest gradient.
fn largest_error(
    values: &[f32],
    grads: &[f32],
    mut loss: impl FnMut(&[f32]) -> Result<f64, DeviceError>,
) -> Result<f64, DeviceError> {
    let mut largest = 0.0f64;
    for (at, grad) in grads.iter().enumerate() {
        let mut moved = |step: f32| {
            let mut values = values.to_vec();
            values[at] += step;
            loss(&values).map(|loss| (loss, f64::from(values[at])))
        };
        let ((above, high), (below, low)) = (moved(STEP)?, moved(-STEP)?);
        largest = largest.max(((above - below) / (high - low) - f64::from(*grad)).abs());
    }
    Ok(largest / grads.iter().fold(0.0, |largest, grad| f64::from(grad.abs()).max(largest)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut layout = Layout::default();
    let weight = layout.add("weight", &[WIDTH, INPUTS], Init::Xavier { fan_in: INPUTS, fan_out: WIDTH }, true);
    let gamma = layout.add("gamma", &[WIDTH], Init::Normal { std: 1.0 }, false);
    let layout = Arc::new(layout);

    let mut tape = Tape::<Cpu>::new(layout.clone());
    let x = tape.input_var(&[ROWS, INPUTS]);
    let hidden = tape.linear(x, Weights { weight, bias: None }, None);
    let y = layer_scale(&mut tape, hidden, gamma);
    tape.retain(y.slot());
    let device = Arc::new(Cpu::default());
    let mut seed = None;
    let program = tape.train_from(device.clone(), |plan| seed = Some(plan.seed(y)))?;
    let seed = seed.ok_or("the tape was closed without a seed")?;

    let mut random = Random::new(1, Purpose::Test, 0, 0);
    let mut normals = |len: usize| -> Vec<f32> { (0..len).map(|_| random.normal()).collect() };
    let (inputs, dy) = (normals(ROWS * INPUTS), normals(ROWS * WIDTH));
    let values = layout.initial_values(1);
    let params = Parameters::new(&*device, layout.clone(), &values)?;
    let mut model = Model { device, params, program, x, y, seed, dy };

    model.loss(&inputs, &values)?;
    model.program.backward(&mut model.params)?;
    let dx = model.program.input_grad(x).ok_or("the input has no gradient")?;
    let dx = model.program.read(dx)?;
    let grads = model.params.download_grads(&model.device)?;

    let mut errors = vec![("x", dx.len(), largest_error(&inputs, &dx, |x| model.loss(x, &values))?)];
    for (name, param) in [("weight", weight), ("gamma", gamma)] {
        let range = layout.get(param).range();
        let mut loss = |values_of: &[f32]| {
            let mut values = values.clone();
            values[range.clone()].copy_from_slice(values_of);
            model.loss(&inputs, &values)
        };
        let error = largest_error(&values[range.clone()], &grads[range.clone()], &mut loss)?;
        errors.push((name, range.len(), error));
    }
    for (name, count, error) in errors {
        println!("{name}: {count} gradients, within {error:.1e} of central differences");
        if error.is_nan() || error > TOLERANCE {
            return Err(format!("the gradient of {name} is wrong").into());
        }
    }
    Ok(())
}
