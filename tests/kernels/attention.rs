use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;

use crate::harness::{Case, Recorded, assert_lean, check, check_bf16, check_with_shared, real};

struct Attention {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_dim: usize,
    causal: bool,
}

impl Case for Attention {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.tokens, 3 * self.heads * self.head_dim]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        tape.attention(x[0], self.heads, self.causal).into()
    }

    // Forwards P and the result; backwards P, dS, the result and, through the rows' sums, the forward result. Sums over
    // many keys average them: half of what they could do.
    fn roundings(&self) -> (f64, f64) {
        (1.5, 3.0)
    }
}

fn sweep(head_dims: &[usize], tokens: &[usize], heads: usize) {
    for &head_dim in head_dims {
        for &tokens in tokens {
            for causal in [false, true] {
                let case = Attention { batch: 2, tokens, heads, head_dim, causal };
                check(&format!("{tokens} tokens, head dim {head_dim}, causal {causal}"), &case);
            }
        }
    }
}

#[test]
fn short_rows() {
    sweep(&[32, 64, 80, 96, 128], &[1, 2, 17, 32, 50, 77], 2);
}

#[test]
fn whole_rows_of_the_presets() {
    sweep(&[64, 80], &[65, 99, 129, 197, 257], 1);
}

/// Around the ends of the kernel for which a head fills an SM, of its slabs and of its blocks of queries; three heads,
/// so that some block takes a second one.
#[test]
fn rows_that_fill_an_sm() {
    for (head_dim, tokens) in
        [(64, &[145, 176, 196, 197, 208, 209, 240, 256, 257, 272, 273][..]), (80, &[145, 208, 209, 256, 257, 272])]
    {
        for &tokens in tokens {
            for causal in [false, true] {
                let case = Attention { batch: 1, tokens, heads: 3, head_dim, causal };
                check_bf16(&format!("{tokens} tokens, head dim {head_dim}, causal {causal}"), &case);
            }
        }
    }
}

/// On a card with 99 KiB for a block, these need other kernels than on Hopper.
#[test]
fn small_cards_use_kernels_that_fit() {
    for (head_dim, tokens) in [(80, 129), (80, 144), (32, 192), (96, 128), (128, 112), (64, 197)] {
        let case = Attention { batch: 1, tokens, heads: 2, head_dim, causal: false };
        check_with_shared(99 * 1024, &format!("{tokens} tokens, head dim {head_dim}"), &case);
    }
}

#[test]
fn long_rows() {
    sweep(&[32, 64, 128], &[300, 577], 1);
}

#[test]
fn any_head_dim() {
    sweep(&[8, 24, 40, 160], &[3, 33], 2);
    // Those of OpenCLIP's ViT-g and ViT-bigG.
    sweep(&[88, 104], &[33, 70], 2);
}

#[test]
fn moves_whole_sectors_without_conflicts() {
    for (tokens, head_dim) in [(50, 64), (99, 64), (197, 64), (257, 64), (65, 80), (129, 80), (257, 80)] {
        let counts = check("presets", &Attention { batch: 1, tokens, heads: 4, head_dim, causal: false });
        assert!(real() || counts.len() == 2, "one kernel each way: {:?}", counts.keys());
        assert_lean(&counts);
    }
}
