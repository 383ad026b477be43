use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::pool::Pooling;

use crate::harness::{Case, Recorded, assert_lean, check};

#[derive(Clone, Copy, Debug)]
enum Which {
    Mean,
    First,
    At,
}

struct Pool {
    batch: usize,
    tokens: usize,
    width: usize,
    which: Which,
}

impl Case for Pool {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        match self.which {
            Which::Mean => tape.pool(x[0], Pooling::Mean).into(),
            Which::First => tape.pool(x[0], Pooling::First).into(),
            Which::At => {
                let slot = tape.input(self.batch);
                let index: Vec<u32> = (0..self.batch).map(|sample| (sample * 7 % self.tokens) as u32).collect();
                let out = tape.pool(x[0], Pooling::At(slot));
                Recorded { indices: vec![(slot, index)], ..Recorded::from(out) }
            }
        }
    }
}

#[test]
fn mean_first_and_any_token() {
    for (batch, tokens, width) in [(1, 1, 8), (3, 50, 24), (130, 5, 32)] {
        for which in [Which::Mean, Which::First, Which::At] {
            check(&format!("{which:?} of {batch} x {tokens} x {width}"), &Pool { batch, tokens, width, which });
        }
    }
}

#[test]
fn moves_whole_sectors() {
    for which in [Which::Mean, Which::First] {
        assert_lean(&check("b16", &Pool { batch: 8, tokens: 50, width: 768, which }));
    }
}
