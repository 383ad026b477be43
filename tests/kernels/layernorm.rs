use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::layernorm::Norm;

use crate::harness::{Case, Recorded, assert_lean, check};

const EPS: f32 = 1e-6;

struct Plain {
    rows: usize,
    width: usize,
}

impl Case for Plain {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.rows, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.width]; 2]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        tape.layernorm(x[0], Norm { gamma: p[0], beta: p[1], eps: EPS }).into()
    }
}

/// Stream and branch, as in a transformer block: forwards with a sum, backwards onto the stream's gradient.
struct Residual(Plain);

impl Case for Residual {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.0.rows, self.0.width]; 2]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.0.width]; 4]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let norm = |first: usize| Norm { gamma: p[first], beta: p[first + 1], eps: EPS };
        let (sum, y) = tape.residual_layernorm(x[0], Some(x[1]), norm(0));
        tape.residual_layernorm(sum, Some(y), norm(2)).1.into()
    }

    // Two sums and two normalised tensors; backwards also their gradients.
    fn roundings(&self) -> (f64, f64) {
        (2.0, 3.0)
    }
}

#[test]
fn plain() {
    for (rows, width) in [(1, 8), (3, 24), (5, 256), (131, 264), (65, 512), (7, 768), (33, 1024), (9, 1280), (4, 2048)]
    {
        check(&format!("{rows} x {width}"), &Plain { rows, width });
    }
}

#[test]
fn fused_with_the_residual_sum() {
    for (rows, width) in [(2, 16), (70, 40), (197, 768), (35, 1280)] {
        check(&format!("{rows} x {width}"), &Residual(Plain { rows, width }));
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &Residual(Plain { rows: 400, width: 768 })));
}
