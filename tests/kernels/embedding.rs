use flipk::autograd::{ParamId, Tape, Var};
use flipk::device::cuda::kernels::embedding::{DIGITS, PIECE, SEGMENT};
use flipk::ops::AllOps;
use flipk::random::{Purpose, Random};

use flipk::ops::layernorm::Norm;
use ptx_emulator::Counts;

use crate::harness::{Case, Recorded, assert_lean, check, real};

#[derive(Clone, Copy)]
struct Embedding {
    batch: usize,
    context: usize,
    width: usize,
    vocab: usize,
}

impl Embedding {
    /// As captions are: words, then padding to the end.
    fn tokens(&self, seed: u64) -> Vec<i32> {
        let mut random = Random::new(seed, Purpose::Test, 0, 0);
        let mut token = |place: usize| match place % self.context > self.context / 3 {
            true => 0,
            false => random.below(self.vocab as u32) as i32,
        };
        (0..self.batch * self.context).map(&mut token).collect()
    }
}

impl Case for Embedding {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![vec![self.vocab, self.width], vec![self.context, self.width]]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, _: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let tokens = self.tokens(3);
        let slot = tape.input(tokens.len());
        let out = tape.embedding(slot, self.batch, p[0], p[1]);
        Recorded { tokens: vec![(slot, tokens)], ..Recorded::from(out) }
    }
}

/// One table used twice: the second gradient is added to the first.
struct Twice(Embedding);

impl Case for Twice {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        [self.0.params(), vec![vec![self.0.width]; 2]].concat()
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, _: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let tokens = [3, 4].map(|seed| self.0.tokens(seed));
        let slots = tokens.each_ref().map(|tokens| tape.input(tokens.len()));
        let [a, b] = slots.map(|slot| tape.embedding(slot, self.0.batch, p[0], p[1]));
        let (_, out) = tape.residual_layernorm(a, Some(b), Norm { gamma: p[2], beta: p[3], eps: 1e-6 });
        Recorded { tokens: slots.into_iter().zip(tokens).collect(), ..Recorded::from(out) }
    }

    // Two embeddings, their sum and its normalisation; backwards the gradient of the sum.
    fn roundings(&self) -> (f64, f64) {
        (4.0, 3.0)
    }
}

#[test]
fn rare_words_common_words_and_padding() {
    for (batch, context, width, vocab) in [
        (1, 1, 8, 1),
        (3, 5, 16, 9),
        (70, 32, 24, 100),
        (41, 77, 768, 23),
        (5, 8, 2112, 5),
        // A piece, and one entry more; a segment, and one more.
        (1, 64, 8, 3),
        (13, 5, 8, 300),
        (64, 32, 8, 257),
        (683, 3, 8, 256),
        // Three digits.
        (50, 7, 8, 70_000),
    ] {
        check(&format!("{batch} x {context} x {width} of {vocab}"), &Embedding { batch, context, width, vocab });
    }
}

#[test]
fn a_table_that_is_used_twice_adds_both_gradients() {
    for (batch, context, width, vocab) in [(3, 5, 16, 9), (70, 32, 24, 100)] {
        check(&format!("{batch} x {context}"), &Twice(Embedding { batch, context, width, vocab }));
    }
}

/// What the kernels of the table's gradient may move through the L2 cache: dout, the table, the partial rows (written
/// and read), the sort, the lists that the sums read, and for each row of the table a search.
fn allowed(case: Embedding) -> usize {
    let Embedding { batch, context, width, vocab } = case;
    let places = batch * context;
    let lists: Vec<usize> =
        std::iter::successors(Some(places), |len| (*len > PIECE).then(|| 2 * len.div_ceil(PIECE))).collect();
    let partials: usize = lists[1..].iter().sum();
    let sort = 32 * places + DIGITS * 32 * (2 * places.div_ceil(SEGMENT) + 4);
    let digits = if vocab > DIGITS { 2 } else { 1 };
    places * 2 * width
        + 4 * vocab * width
        + 2 * partials * 4 * width
        + digits * sort
        + lists.iter().sum::<usize>() * 8 * width.div_ceil(128)
        + 32 * vocab
}

/// Through the L2 cache: every sector that a warp loads or stores.
fn moved(counts: &Counts) -> u64 {
    32 * (counts.global_loads.sectors + counts.global_stores.sectors)
}

#[test]
fn bytes_grow_with_places_and_vocabulary_alone() {
    if real() {
        return println!("skipped: a real GPU does not count bytes");
    }
    for (batch, vocab) in [(16, 64), (16, 4096), (128, 64), (128, 4096)] {
        let case = Embedding { batch, context: 32, width: 192, vocab };
        let mut counts = check(&format!("{batch} of {vocab}"), &case);
        counts.retain(|kernel, _| kernel.starts_with("embedding") && !kernel.starts_with("embedding_forward"));
        let (moved, allowed) = (counts.values().map(moved).sum::<u64>(), allowed(case) as u64);
        assert!(moved <= allowed, "{batch} of {vocab}: {moved} bytes, {allowed} allowed");
        counts.retain(|kernel, _| kernel == "embedding_sum_bf16");
        assert_lean(&counts);
    }
}
