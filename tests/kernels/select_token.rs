use flipk::autograd::{ParamId, Tape, Var};
use flipk::ops::AllOps;
use flipk::ops::select_token::{Find, Place};

use crate::harness::{Case, Recorded, assert_lean, check};

struct SelectToken {
    shape: [usize; 3],
    /// The place, or what is looked for.
    place: Result<usize, Find>,
}

impl Case for SelectToken {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![self.shape.to_vec()]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, x: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        let [batch, context, _] = self.shape;
        match self.place {
            Ok(place) => tape.select_token(x[0], Place::At(place)).into(),
            Err(find) => {
                // Few different tokens, so that the largest and the one looked for occur several times.
                let ids = (0..batch * context).map(|at| (at * 7919 % 31 % 11) as i32).collect();
                let slot = tape.input(batch * context);
                let places = tape.find_token(slot, [batch, context], find);
                let out = tape.select_token(x[0], Place::Each(places));
                Recorded { tokens: vec![(slot, ids)], ..Recorded::from(out) }
            }
        }
    }

    // Copies.
    fn roundings(&self) -> (f64, f64) {
        (0.0, 0.0)
    }
}

#[test]
fn of_any_shape() {
    for shape in [[1, 1, 8], [3, 1, 512], [5, 7, 24], [130, 3, 40], [2, 9, 1280], [3, 77, 16]] {
        for place in [Ok(0), Ok(shape[1] - 1), Err(Find::Largest), Err(Find::Id(4)), Err(Find::Id(99))] {
            check(&format!("{shape:?}, {place:?}"), &SelectToken { shape, place });
        }
    }
}

#[test]
fn moves_whole_sectors() {
    assert_lean(&check("b16", &SelectToken { shape: [6, 32, 512], place: Ok(0) }));
}
