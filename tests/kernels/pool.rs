//! The tail of a tower, in f32: pooling, projection, L2 normalisation.

use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::pool::Pooling;

use crate::harness::{Case, Out, Recorded, assert_lean, check};

#[derive(Clone, Copy, Debug)]
enum Which {
    Mean,
    First,
    At,
}

struct Tail {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Width of the joint space; 0: only the pooling.
    embed: usize,
    which: Which,
}

impl Case for Tail {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        if self.embed > 0 { vec![vec![self.width, self.embed]] } else { vec![] }
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let slot = tape.input(self.batch);
        let pooling = match self.which {
            Which::Mean => Pooling::Mean,
            Which::First => Pooling::First,
            Which::At => Pooling::At(slot),
        };
        let pooled = tape.pool(x[0], pooling);
        let out = match p.first() {
            Some(weight) => {
                let projected = tape.projection(pooled, *weight);
                tape.l2norm(projected)
            }
            None => pooled,
        };
        let index: Vec<u32> = (0..self.batch).map(|sample| (sample * 7 % self.tokens) as u32).collect();
        Recorded { indices: vec![(slot, index)], ..Recorded::from(Out::Full(out)) }
    }

    // Only the gradient of the tokens is bf16.
    fn roundings(&self) -> (f64, f64) {
        (0.01, 1.0)
    }
}

#[test]
fn mean_first_and_any_token() {
    for (batch, tokens, width, embed) in
        [(1, 1, 8, 0), (3, 50, 24, 0), (3, 50, 24, 5), (130, 5, 32, 64), (2, 9, 768, 512)]
    {
        for which in [Which::Mean, Which::First, Which::At] {
            let tail = Tail { batch, tokens, width, embed, which };
            check(&format!("{which:?} of {batch} x {tokens} x {width} to {embed}"), &tail);
        }
    }
}

#[test]
fn moves_whole_sectors() {
    for which in [Which::Mean, Which::First] {
        let mut counts = check("b16", &Tail { batch: 8, tokens: 50, width: 768, embed: 512, which });
        // One row per sample is not worth a layout of its own.
        counts.remove("pool_token_forward_bf16");
        assert_lean(&counts);
    }
}
