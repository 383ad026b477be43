//! Sums over micro-batches in a fixed binary tree: neighbours are added, then neighbouring sums, level by level; the
//! last of an odd number moves up unchanged. The sum has the same bits whichever process computes which leaves.

use std::ops::Range;

use crate::autograd::Parameters;
use crate::device::{Buffer, Device, DeviceError};

/// Gradients of leaves that come one after the other, added up in the tree. Sums that wait for their neighbour are on a
/// stack, as the digits of a binary counter: it holds as many arenas as the number of leaves so far has ones.
pub(crate) struct GradientTree<D: Device> {
    leaves: usize,
    waiting: Vec<Buffer<D, f32>>,
}

impl<D: Device> GradientTree<D> {
    /// Arenas that a sum over `leaves` needs besides the gradients themselves.
    pub(crate) fn depth(leaves: usize) -> usize {
        leaves.max(1).ilog2() as usize
    }

    /// A sum over `leaves` arenas of `len` elements.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub(crate) fn new(device: &D, leaves: usize, len: usize) -> Result<Self, DeviceError> {
        let arena = |_| Buffer::unwritten(device, len, "sums of the micro-batches' gradients");
        Ok(Self { leaves, waiting: (0..Self::depth(leaves)).map(arena).collect::<Result<_, _>>()? })
    }

    /// Adds the gradients of `params` as leaf number `leaf`. Leaves come in order, and after the last one the gradients
    /// of `params` are the sum.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn add(&mut self, device: &D, leaf: usize, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        let (_, grads) = params.values_and_grads();
        let held = leaf.count_ones() as usize;
        if leaf + 1 == self.leaves {
            let all = 0..grads.len();
            return self.add_last(device, all, grads);
        }
        let Some(merged) = (leaf.trailing_ones() as usize).checked_sub(1) else {
            return device.copy(self.waiting[held].view_mut(), grads.view());
        };
        // The order of two terms does not change their sum, so the last sum is made where it will wait.
        for waiting in self.waiting[held - merged..held].iter().rev() {
            device.add_into(grads.view_mut(), waiting.view())?;
        }
        device.add_into(self.waiting[held - merged - 1].view_mut(), grads.view())
    }

    /// Adds the last leaf, in a part of the arena: that part of `grads` is the sum then.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn add_last(
        &self,
        device: &D,
        part: Range<usize>,
        grads: &mut Buffer<D, f32>,
    ) -> Result<(), DeviceError> {
        let held = (self.leaves - 1).count_ones() as usize;
        let mut waiting = self.waiting[..held].iter().rev();
        waiting.try_for_each(|waiting| device.add_into(grads.range_mut(part.clone()), waiting.range(part.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Init, Layout};
    use crate::device::Cpu;
    use std::sync::Arc;

    /// The tree as it is defined.
    fn plain(mut leaves: Vec<f32>) -> f32 {
        while leaves.len() > 1 {
            leaves = leaves.chunks(2).map(|pair| pair.iter().copied().reduce(|a, b| a + b).unwrap()).collect();
        }
        leaves[0]
    }

    fn numbers(count: usize) -> Vec<f32> {
        // Sums of such different sizes round differently in every other order.
        (0..count).map(|index| libm::expf((index * 37 % 23) as f32) * if index % 3 == 0 { -1.0 } else { 1.1 }).collect()
    }

    #[test]
    fn leaves_are_added_in_the_order_of_the_tree() {
        let mut layout = Layout::default();
        layout.add("a", &[3], Init::Constant(0.0), true);
        let layout = Arc::new(layout);
        let mut other_orders = 0;
        for count in 1..=40 {
            let leaves = numbers(count);
            let mut params = Parameters::new(&Cpu::default(), layout.clone(), &layout.initial_values(0)).unwrap();
            let mut tree = GradientTree::new(&Cpu::default(), count, layout.arena_len()).unwrap();
            assert!(tree.waiting.len() < count && tree.waiting.len() <= 5);
            // Sums of the step before are overwritten.
            for _ in 0..2 {
                for (index, leaf) in leaves.iter().enumerate() {
                    params.values_and_grads().1.view_mut().fill(*leaf);
                    tree.add(&Cpu::default(), index, &mut params).unwrap();
                }
                let sum = plain(leaves.clone());
                assert!(params.grads().iter().all(|found| *found == sum), "{count}");
            }
            let mut flat: Vec<f32> = leaves.iter().flat_map(|leaf| [*leaf, -leaf]).collect();
            crate::ops::sum_rows::sum_in_place(&mut flat, 2);
            assert_eq!(flat[..2], [plain(leaves.clone()), -plain(leaves.clone())]);
            other_orders += usize::from(plain(leaves.clone()) != leaves.iter().sum::<f32>());
        }
        assert!(other_orders > 10, "the numbers do not tell orders apart");
    }

    /// Two parts with a power of two of leaves each have the sums that the tree has.
    #[test]
    fn ranks_with_a_power_of_two_of_leaves_give_the_same_bits() {
        for (ranks, each) in [(2, 4), (3, 4), (5, 2), (6, 1)] {
            let leaves = numbers(ranks * each);
            let own: Vec<f32> = leaves.chunks(each).map(|own| plain(own.to_vec())).collect();
            assert_eq!(plain(own), plain(leaves));
        }
    }
}
