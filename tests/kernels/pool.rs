//! The tail of a tower, in f32: pooling, projection, L2 normalisation; and casts back to activations.

use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;

use crate::harness::{Case, Out, Recorded, assert_lean, check};

struct Tail {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Width of the joint space; 0: only the pooling.
    embed: usize,
    /// Tokens that are left out of the mean.
    skip: usize,
}

impl Case for Tail {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        if self.embed > 0 { vec![vec![self.width, self.embed]] } else { vec![] }
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let pooled = tape.pool(x[0], self.skip);
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
    for (batch, tokens, width, embed, skip) in [
        (1, 1, 8, 0, 0),
        (3, 50, 24, 0, 0),
        (3, 50, 24, 5, 1),
        (130, 5, 32, 64, 0),
        (130, 5, 32, 0, 4),
        (2, 9, 768, 512, 1),
    ] {
        let name = format!("{batch} x {tokens} x {width} without {skip} to {embed}");
        check(&name, &Tail { batch, tokens, width, embed, skip });
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &Tail { batch: 8, tokens: 50, width: 768, embed: 512, skip: 0 }));
}

/// The mean of a residual sum, as an activation.
struct Cast([usize; 3]);

impl Case for Cast {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![self.0.to_vec(); 2]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        let mean = tape.residual_pool(x[0], Some(x[1]), 1);
        tape.cast(mean).into()
    }

    fn roundings(&self) -> (f64, f64) {
        (1.0, 1.0)
    }
}

#[test]
fn mean_of_a_residual_sum_as_an_activation() {
    for shape in [[1, 2, 8], [3, 50, 24], [130, 5, 32], [2, 9, 768]] {
        check(&format!("{shape:?}"), &Cast(shape));
    }
}
