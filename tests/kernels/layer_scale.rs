use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;

use crate::harness::{Case, Recorded, assert_lean, check};

struct LayerScale {
    rows: usize,
    width: usize,
}

impl Case for LayerScale {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.rows, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.width]]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        tape.layer_scale(x[0], p[0]).into()
    }

    fn roundings(&self) -> (f64, f64) {
        (1.0, 1.0)
    }
}

#[test]
fn of_any_shape() {
    for (rows, width) in [(1, 8), (7, 24), (65, 264), (300, 1280)] {
        check(&format!("{rows} x {width}"), &LayerScale { rows, width });
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &LayerScale { rows: 200, width: 768 }));
}
