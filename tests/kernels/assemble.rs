use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::assemble::Positions;

use crate::gather_patches::visible;
use crate::harness::{Case, Recorded, assert_lean, check, normals};

struct Assemble {
    batch: usize,
    kept: usize,
    width: usize,
    learned: bool,
}

const PATCHES: usize = 30;

impl Case for Assemble {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![vec![self.batch, self.kept, self.width]]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        let mut params = vec![vec![self.width]];
        params.extend(self.learned.then(|| vec![PATCHES + 1, self.width]));
        params
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], p: &[ParamId]) -> Recorded<D::Act> {
        let ids = visible(self.batch, PATCHES, self.kept);
        let slot = tape.input(ids.len());
        let positions = match p.get(1) {
            Some(table) => Positions::Learned(*table),
            None => Positions::Fixed(tape.constant(normals((PATCHES + 1) * self.width, 7))),
        };
        let out = tape.assemble(x[0], slot, p[0], positions);
        Recorded { indices: vec![(slot, ids)], ..Recorded::from(out) }
    }
}

#[test]
fn fixed_and_learned_positions() {
    for (batch, kept, width) in [(1, 1, 8), (3, 7, 16), (70, 5, 40), (2, 30, 264)] {
        for learned in [false, true] {
            check(&format!("{batch} x {kept} x {width}"), &Assemble { batch, kept, width, learned });
        }
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &Assemble { batch: 20, kept: 15, width: 768, learned: false }));
}
