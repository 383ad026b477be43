use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::linear::Weights;

use crate::harness::{Case, Recorded, assert_lean, check, real};

/// A tensor that is used twice: its gradients are added.
struct Twice {
    rows: usize,
    width: usize,
}

impl Case for Twice {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.rows, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.width, self.width], vec![self.width], vec![self.width]]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let linear = tape.linear(x[0], Weights { weight: p[0], bias: None }, None);
        let norm = flipk::ops::layernorm::Norm { gamma: p[1], beta: p[2], eps: 1e-6 };
        tape.residual_layernorm(linear, Some(x[0]), norm).1.into()
    }

    fn roundings(&self) -> (f64, f64) {
        (2.0, 3.0)
    }
}

#[test]
fn gradients_are_added() {
    for (rows, width) in [(1, 8), (37, 40), (300, 256)] {
        let counts = check(&format!("{rows} x {width}"), &Twice { rows, width });
        assert!(real() || counts.contains_key("add_into_bf16"));
        if width == 256 {
            assert_lean(&counts);
        }
    }
}
