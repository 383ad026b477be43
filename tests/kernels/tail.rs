//! The end of a tower: the last normalisation with the mean over tokens, then, in f32, projection and L2 normalisation.

use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::layernorm::Norm;

use crate::harness::{Case, Out, Recorded, assert_lean, check};

struct Tail {
    batch: usize,
    tokens: usize,
    width: usize,
    /// Width of the joint space; 0: only the normalisation.
    embed: usize,
}

impl Case for Tail {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, self.width]; 2]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        let mut params = vec![vec![self.width]; 2];
        params.extend((self.embed > 0).then(|| vec![self.width, self.embed]));
        params
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let pooled = tape.pooled_norm(x[0], x[1], Norm { gamma: p[0], beta: p[1], eps: 1e-6 });
        let out = match p.get(2) {
            Some(weight) => {
                let projected = tape.projection(pooled, *weight);
                tape.l2norm(projected)
            }
            None => pooled,
        };
        Out::Full(out).into()
    }

    // Only the gradient of the tokens is bf16.
    fn roundings(&self) -> (f64, f64) {
        (0.01, 1.0)
    }
}

#[test]
fn of_any_shape() {
    for (batch, tokens, width, embed) in [
        (1, 1, 8, 0),
        (3, 50, 24, 0),
        (3, 50, 24, 5),
        (130, 5, 32, 64),
        (35, 1, 512, 0),
        (2, 17, 768, 512),
        (3, 9, 1024, 0),
        (2, 33, 1280, 0),
        (2, 3, 2048, 0),
    ] {
        check(&format!("{batch} x {tokens} x {width} to {embed}"), &Tail { batch, tokens, width, embed });
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &Tail { batch: 8, tokens: 50, width: 768, embed: 512 }));
}
