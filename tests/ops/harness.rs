//! Records an op with random operands, runs it, and holds results and gradients against a reference.

use std::sync::Arc;

use flipk::autograd::{ParamId, Parameters, Program, Tape, Var};
use flipk::device::Cpu;

use crate::common::{self, largest};

pub use crate::common::normals;

/// f32 rounding over sums of at most some thousand terms.
pub const TOLERANCE: f64 = 2e-5;

/// Operands of an op: activations first, then parameters, each with its shape.
pub struct Case<'a> {
    pub inputs: &'a [&'a [usize]],
    pub params: &'a [&'a [usize]],
}

/// What a recorded op returned, and the buffers that the host fills.
pub type Recorded = common::Recorded<Var<f32>>;

/// `[rows, width]`, each row of length 1.
pub fn unit_rows(rows: usize, width: usize, item: u64) -> Vec<f32> {
    let values = normals(rows * width, item);
    let rows = values.chunks_exact(width);
    rows.flat_map(|row| {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(move |x| x / norm)
    })
    .collect()
}

/// The largest difference, relative to the largest element of `expected`.
pub fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30, |max: f64, value| max.max(value.abs()));
    largest(found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs())) / scale
}

impl Case<'_> {
    /// Records with `record`, and compares with `reference`, which maps all operands (inputs, then parameters) to the
    /// result.
    pub fn check<R: Into<Recorded>>(
        &self,
        record: impl FnOnce(&mut Tape<Cpu>, &[Var<f32>], &[ParamId]) -> R,
        reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) {
        let (layout, params, values) = common::params(self.params);
        let mut tape = Tape::<Cpu>::new(layout.clone());
        let inputs: Vec<Var<f32>> = self.inputs.iter().map(|shape| tape.input_var(shape)).collect();
        let recorded: Recorded = record(&mut tape, &inputs, &params).into();
        tape.retain(recorded.out.slot());
        let mut seed = None;
        let mut program =
            tape.train_from(Arc::new(Cpu::default()), |plan| seed = Some(plan.seed(recorded.out))).unwrap();
        let mut operands: Vec<Vec<f32>> = (self.inputs.iter().enumerate())
            .map(|(index, shape)| normals(shape.iter().product(), index as u64))
            .collect();
        operands.extend(params.iter().map(|id| values[layout.get(*id).range()].to_vec()));

        let write = |program: &mut Program<Cpu>| {
            for (var, values) in inputs.iter().zip(&operands) {
                program.write(var.slot(), values).unwrap();
            }
            recorded.write(program);
        };
        let mut parameters = Parameters::new(&Cpu::default(), layout.clone(), &values).unwrap();
        write(&mut program);
        program.forward(&parameters).unwrap();
        let exact: Vec<Vec<f64>> =
            operands.iter().map(|values| values.iter().map(|value| f64::from(*value)).collect()).collect();
        let expected = reference(&exact);
        let found = error(&program.read(recorded.out.slot()).unwrap(), &expected);
        assert!(found < TOLERANCE, "the result is off by {found:e}");

        let weights = normals(expected.len(), 99);
        program.write(seed.unwrap(), &weights).unwrap();
        program.backward(&mut parameters).unwrap();
        let grads = parameters.download_grads(&Cpu::default()).unwrap();
        for operand in 0..operands.len() {
            let found: Vec<f32> = match operand.checked_sub(inputs.len()) {
                None => program.read(program.input_grad(inputs[operand]).unwrap()).unwrap(),
                Some(param) => grads[layout.get(params[param]).range()].to_vec(),
            };
            self.check_gradient(operand, &found, &exact, &weights, &reference);
        }
    }

    /// Central differences at up to 60 places of one operand.
    fn check_gradient(
        &self,
        operand: usize,
        found: &[f32],
        exact: &[Vec<f64>],
        weights: &[f32],
        reference: &impl Fn(&[Vec<f64>]) -> Vec<f64>,
    ) {
        const STEP: f64 = 1e-5;
        let objective = |operands: &[Vec<f64>]| -> f64 {
            reference(operands).iter().zip(weights).map(|(value, weight)| value * f64::from(*weight)).sum()
        };
        let stride = found.len().div_ceil(60);
        let (mut checked, mut expected) = (Vec::new(), Vec::new());
        let mut operands = exact.to_vec();
        for place in (0..found.len()).step_by(stride) {
            let original = operands[operand][place];
            operands[operand][place] = original + STEP;
            let above = objective(&operands);
            operands[operand][place] = original - STEP;
            let below = objective(&operands);
            operands[operand][place] = original;
            checked.push(found[place]);
            expected.push((above - below) / (2.0 * STEP));
        }
        let error = error(&checked, &expected);
        assert!(error < TOLERANCE, "the gradient of operand {operand} is off by {error:e}");
    }
}
