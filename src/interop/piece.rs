//! Parts of our parameters that are tensors of another program.

use crate::autograd::ParamSpec;

/// A part of one of our parameters that is one tensor of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Their name.
    pub name: String,
    /// Their shape.
    pub shape: Vec<usize>,
    /// Elements from the start of our parameter.
    pub offset: usize,
    /// How their numbers are ordered.
    pub order: Order,
}

/// How the numbers of a tensor are ordered, compared with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In the same way.
    Same,
    /// Theirs is `[.., inputs, outputs]`, ours `[outputs, inputs]`.
    Transposed,
    /// Theirs is a patch kernel `[width, 3, patch, patch]`, ours `[width, patch, patch, 3]`.
    ChannelsFirst,
}

impl Piece {
    /// Numbers in it.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// `[rows, columns]` of the matrices, in their order, that are transposed.
    fn matrices(&self) -> Option<[usize; 2]> {
        match self.order {
            Order::Same => None,
            Order::Transposed => {
                let outputs = self.shape[self.shape.len() - 1];
                Some([self.count() / outputs.max(1), outputs])
            }
            Order::ChannelsFirst => Some([self.shape[1], self.shape[2] * self.shape[3]]),
        }
    }

    /// Their numbers in our order.
    pub fn to_ours(&self, theirs: &[f32]) -> Vec<f32> {
        match self.matrices() {
            None => theirs.to_vec(),
            Some([rows, columns]) => transposed(theirs, rows, columns),
        }
    }

    /// Our numbers in their order.
    pub fn to_theirs(&self, ours: &[f32]) -> Vec<f32> {
        match self.matrices() {
            None => ours.to_vec(),
            Some([rows, columns]) => transposed(ours, columns, rows),
        }
    }
}

/// The tensor of OpenCLIP that is this parameter: it has the same name.
pub fn open_clip_piece(spec: &ParamSpec) -> Piece {
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

/// Each matrix of `[rows, columns]` transposed.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let matrices = values.chunks_exact((rows * columns).max(1));
    matrices
        .flat_map(|matrix| {
            (0..columns).flat_map(move |column| (0..rows).map(move |row| matrix[row * columns + column]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(shape: &[usize], order: Order, theirs: &[f32], ours: &[f32]) {
        let piece = Piece { name: String::new(), shape: shape.to_vec(), offset: 0, order };
        assert_eq!((piece.to_ours(theirs).as_slice(), piece.to_theirs(ours).as_slice()), (ours, theirs));
    }

    #[test]
    fn orders_are_changed_there_and_back() {
        let numbers: Vec<f32> = (1..=12).map(|i| i as f32).collect();
        there_and_back(&[12], Order::Same, &numbers, &numbers);
        there_and_back(&[2, 3], Order::Transposed, &numbers[..6], &[1., 4., 2., 5., 3., 6.]);
        // Two kernels of 1 x 2 pixels.
        let ours = [1., 3., 5., 2., 4., 6., 7., 9., 11., 8., 10., 12.];
        there_and_back(&[2, 3, 1, 2], Order::ChannelsFirst, &numbers, &ours);
    }
}
