//! Our parameters in terms of OpenCLIP's tensors.

use super::super::piece::{Order, Piece};
use crate::autograd::ParamSpec;

/// The tensor that is this parameter: it has the same name.
pub fn piece(spec: &ParamSpec) -> Piece {
    let (shape, order) = match (spec.name.as_str(), spec.shape.as_slice()) {
        ("visual.conv1.weight", &[width, numbers]) => {
            let patch = (numbers / 3).isqrt();
            (vec![width, 3, patch, patch], Order::ChannelsFirst)
        }
        ("logit_scale" | "logit_bias", _) => (vec![], Order::Same),
        (_, shape) => (shape.to_vec(), Order::Same),
    };
    Piece { name: spec.name.clone(), shape, offset: 0, order }
}
