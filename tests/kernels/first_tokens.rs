use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;

use crate::harness::{Case, Recorded, assert_lean, check};

struct FirstTokens([usize; 3]);

impl Case for FirstTokens {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![self.0.to_vec()]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        tape.first_tokens(x[0]).into()
    }

    // Copies.
    fn roundings(&self) -> (f64, f64) {
        (0.0, 0.0)
    }
}

#[test]
fn of_any_shape() {
    for shape in [[1, 1, 8], [3, 1, 512], [5, 7, 24], [130, 3, 40], [2, 9, 1280]] {
        check(&format!("{shape:?}"), &FirstTokens(shape));
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &FirstTokens([6, 32, 512])));
}
