use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::random::{Purpose, Random};

use crate::harness::{Case, Recorded, check};

struct Embedding {
    batch: usize,
    context: usize,
    width: usize,
    vocab: usize,
}

impl Case for Embedding {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.vocab, self.width], vec![self.context, self.width]]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, _: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let mut random = Random::new(3, Purpose::Test, 0, 0);
        // As captions are: words, then padding to the end.
        let tokens: Vec<i32> = (0..self.batch * self.context)
            .map(
                |place| {
                    if place % self.context > self.context / 3 { 0 } else { random.below(self.vocab as u32) as i32 }
                },
            )
            .collect();
        let slot = tape.input(tokens.len());
        let out = tape.embedding(slot, self.batch, p[0], p[1]);
        Recorded { tokens: vec![(slot, tokens)], ..Recorded::from(out) }
    }
}

#[test]
fn rare_words_common_words_and_padding() {
    for (batch, context, width, vocab) in
        [(1, 1, 8, 1), (3, 5, 16, 9), (70, 32, 24, 100), (41, 77, 768, 23), (5, 8, 2112, 5)]
    {
        check(&format!("{batch} x {context} x {width} of {vocab}"), &Embedding { batch, context, width, vocab });
    }
}
