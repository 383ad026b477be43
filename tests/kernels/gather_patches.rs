use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::gather_patches::Normalisation;
use flipk::random::{Purpose, Random};

use crate::harness::{Case, Recorded, check, real};

/// `[batch, kept, patch * patch * 3]`
struct Gather([usize; 3]);

/// Some of the patches of each image, in any order.
pub fn visible(batch: usize, patches: usize, kept: usize) -> Vec<u32> {
    let mut random = Random::new(5, Purpose::Test, 0, 0);
    (0..batch).flat_map(|_| random.permutation(patches).into_iter().take(kept).collect::<Vec<_>>()).collect()
}

impl Case for Gather {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, _: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        let mut random = Random::new(6, Purpose::Test, 0, 0);
        let patches: Vec<u8> = (0..self.0.iter().product()).map(|_| random.below(256) as u8).collect();
        let slot = tape.input(patches.len());
        let out = tape.gather_patches(slot, self.0, Normalisation::IMAGENET);
        Recorded { bytes: vec![(slot, patches)], ..Recorded::from(out) }
    }
}

#[test]
fn patches_of_all_sizes() {
    for (batch, patch, kept) in [(1, 1, 1), (1, 1, 3), (3, 4, 5), (2, 14, 4), (5, 8, 18), (2, 16, 8), (3, 5, 9)] {
        check(&format!("patch {patch}"), &Gather([batch, kept, patch * patch * 3]));
    }
}

#[test]
fn each_byte_is_read_once() {
    let mut counts = check("b16", &Gather([3, 49, 16 * 16 * 3]));
    if real() {
        return;
    }
    let counts = counts.get_mut("gather_patches_bf16").unwrap();
    let numbers = 3 * 49 * 16 * 16 * 3;
    assert_eq!((counts.global_loads.efficiency(), counts.global_stores.efficiency()), (1.0, 1.0));
    assert_eq!((counts.global_loads.bytes, counts.global_stores.bytes), (numbers, 2 * numbers));
}
