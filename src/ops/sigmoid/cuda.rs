//! The sigmoid loss on a GPU: `kernels/sigmoid.cu`, whose head tells the launches and their scratch.

use super::{Gradients, Inputs, Shape, Sigmoid};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, ViewMut, args};
use crate::ops::contrastive::cuda::Cut;

/// Scalars whose gradients are sums over all logits: temperature and bias.
const SCALARS: usize = 2;

impl<T: ActType> Sigmoid for Cuda<T> {
    fn sigmoid_scratch(shape: &Shape) -> usize {
        Cut::of(shape).scratch(SCALARS)
    }

    fn sigmoid_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        outcome: ViewMut<'_, f32>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let cut = Cut::of(shape);
        let [batch, row, down, across] =
            [shape.batch, cut.row(), cut.forward[0], cut.forward[1]].map(|size| size as i32);
        let (scale, bias) = (inputs.logit_scale.address(), inputs.logit_bias.address());
        let towers = [inputs.images.address(), inputs.texts.address()];
        let [images, texts, parts] = cut.split(self, towers, scratch.address())?;
        let args = args![images, texts, scale, bias, parts, batch, batch, row, 0i32, down, across];
        self.launch("sigmoid", "sigmoid_rows_f32", cut.forward_config(), args)?;
        let [row_shares, column_shares] = cut.shares().map(|shares| shares as i32);
        let args = args![parts, outcome.address(), batch, row_shares, column_shares, 1.0 / shape.batch as f32];
        self.launch("sigmoid", "sigmoid_outcome_f32", LaunchConfig::blocks(1, 1024), args)
    }

    fn sigmoid_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        gradients: Gradients<'_, Self>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let cut = Cut::of(shape);
        let [batch, width, row, across] = [shape.batch, shape.width, cut.row(), cut.across].map(|size| size as i32);
        let (scale, bias) = (inputs.logit_scale.address(), inputs.logit_bias.address());
        let towers = [inputs.images.address(), inputs.texts.address()];
        let [images, texts, sums] = cut.split(self, towers, scratch.address())?;
        let weight = 1.0 / shape.batch as f32;
        let Gradients { dimages, dtexts, dlogit_scale, dlogit_bias } = gradients;
        for (a, b, sums_to, d) in [(images, texts, sums, dimages), (texts, images, 0, dtexts)] {
            cut.gradient(self, d, sums, SCALARS, |config, to| {
                let args = args![a, b, scale, bias, to, sums_to, batch, batch, width, row, 0i32, across, weight];
                self.launch("sigmoid", "sigmoid_gradient_f32", config, args)
            })?;
        }
        let blocks = cut.blocks() as i32;
        let (dscale, dbias) = (dlogit_scale.0.address(), dlogit_bias.0.address());
        let [add_scale, add_bias] = [dlogit_scale.1, dlogit_bias.1].map(i32::from);
        let args = args![sums, scale, dscale, dbias, blocks, add_scale, add_bias];
        self.launch("sigmoid", "sigmoid_dscalars_f32", LaunchConfig::blocks(1, 256), args)
    }
}
