//! The tail of a tower, in f32: pooling, projection, L2 normalisation.

use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;

use crate::harness::{Case, Out, Recorded, assert_lean, check};

struct Tail {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Width of the joint space; 0: only the pooling.
    embed: usize,
}

impl Case for Tail {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        if self.embed > 0 { vec![vec![self.width, self.embed]] } else { vec![] }
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let pooled = tape.pool(x[0]);
        let out = match p.first() {
            Some(weight) => {
                let projected = tape.projection(pooled, *weight);
                tape.l2norm(projected)
            }
            None => pooled,
        };
        Recorded::from(Out::Full(out))
    }

    // Only the gradient of the tokens is bf16.
    fn roundings(&self) -> (f64, f64) {
        (0.01, 1.0)
    }
}

#[test]
fn mean_over_tokens() {
    for (batch, tokens, width, embed) in
        [(1, 1, 8, 0), (3, 50, 24, 0), (3, 50, 24, 5), (130, 5, 32, 64), (2, 9, 768, 512)]
    {
        check(&format!("{batch} x {tokens} x {width} to {embed}"), &Tail { batch, tokens, width, embed });
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &Tail { batch: 8, tokens: 50, width: 768, embed: 512 }));
}
