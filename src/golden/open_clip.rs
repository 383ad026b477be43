//! A golden state of an OpenCLIP model: one forward and one backward pass without a mask.

use super::file::GoldenError;
use super::verify::{Check, Run, Tolerances, difference, largest_difference, norm, relative};
use crate::interop::Piece;
use crate::interop::open_clip::piece;
use crate::model::{Positions, sincos_2d};
use crate::ops::AllOps;

impl<D: AllOps> Run<'_, D> {
    fn open_clip_pieces(&self) -> impl Iterator<Item = (usize, Piece)> {
        self.flip.layout().specs().iter().map(|spec| (spec.offset, piece(spec)))
    }

    /// Every quantity of the state.
    pub(super) fn open_clip(&self, tolerances: &Tolerances) -> Result<Vec<Check>, GoldenError> {
        let (golden, config) = (self.golden, &self.golden.config);
        let patches = config.model.patches();
        let ids: Vec<u32> = (0..config.batch).flat_map(|_| 0..patches as u32).collect();
        let mut params = self.parameters_of("state_dict", self.open_clip_pieces())?;
        let mut pass = self.pass(patches)?;
        let loss = pass.gradients(&self.batch(&ids), &mut params)?;
        let mut checks = Vec::new();
        let mut add = |quantity: &str, error, tolerance| {
            checks.push(Check { quantity: quantity.to_owned(), error, tolerance });
        };
        if config.model.positions == Positions::Sincos {
            let ours = sincos_2d(config.model.image_size / config.model.patch_size, config.model.vision.width);
            let theirs = golden.f32_len("state_dict/visual.positional_embedding", ours.len())?;
            add("position table", largest_difference(&ours, &theirs), 1e-6);
        }
        for (name, ours) in ["image_features", "text_features"].into_iter().zip(pass.embeddings()?) {
            let theirs = golden.f32_len(&format!("outputs/{name}"), ours.len())?;
            add(name, largest_difference(&ours, &theirs), tolerances.embeddings);
        }
        let scale = golden.scalar("state_dict/logit_scale")?.exp();
        add("logit_scale", relative(scale, golden.scalar("outputs/logit_scale")?), tolerances.loss);
        add("loss", relative(loss, golden.scalar("outputs/loss")?), tolerances.loss);
        let ours = params.download_grads(&self.device)?;
        let mut compared = Vec::new();
        for (offset, piece) in self.open_clip_pieces() {
            let theirs = golden.f32_len(&format!("grads/{}", piece.name), piece.count())?;
            let theirs = piece.to_ours(&theirs);
            compared.push((piece.name, difference(&ours[offset..offset + theirs.len()], &theirs), norm(theirs)));
        }
        // What is zero in exact arithmetic is rounding noise in both.
        let largest = compared.iter().map(|(.., norm)| *norm).fold(0.0, f64::max);
        checks.extend(compared.into_iter().map(|(name, difference, norm)| Check {
            quantity: format!("gradient {name}"),
            error: difference / if norm > 1e-6 * largest { norm } else { largest },
            tolerance: tolerances.gradients,
        }));
        Ok(checks)
    }
}
