use flipk::autograd::{Activation, ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::linear::Weights;

use crate::harness::{Case, Recorded, check};

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
    gelu: Option<Activation>,
}

impl Case for Linear {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.rows, self.inputs]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        let weight = vec![self.outputs, self.inputs];
        if self.bias { vec![weight, vec![self.outputs]] } else { vec![weight] }
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let weights = Weights { weight: p[0], bias: p.get(1).copied() };
        tape.linear(x[0], weights, self.gelu).into()
    }

    // Forwards the input of the GELU is rounded where no epilogue holds it; backwards the GELU's slope is taken at a
    // rounded input and the gradient is rounded before the products.
    fn roundings(&self) -> (f64, f64) {
        if self.gelu.is_some() { (1.5, 2.0) } else { (1.0, 1.0) }
    }
}

#[test]
fn biases_and_gelus() {
    for (rows, inputs, outputs) in [(1, 8, 8), (7, 12, 24), (65, 588, 40), (130, 64, 256), (70, 16, 35)] {
        for bias in [false, true] {
            for gelu in [None, Some(Activation::GeluTanh), Some(Activation::GeluExact), Some(Activation::QuickGelu)] {
                let name = format!("{rows} x {inputs} x {outputs}, bias {bias}, {gelu:?}");
                check(&name, &Linear { rows, inputs, outputs, bias, gelu });
            }
        }
    }
}
