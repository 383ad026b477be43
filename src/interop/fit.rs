//! Weights of one model for another that differs in image size, context or loss.

use super::{InteropError, interpolate};
use crate::autograd::Layout;
use crate::log::WARNING;
use crate::model::{ModelConfig, TowerConfig};

/// A model and where its parameters are in an arena.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// Sizes and choices.
    pub config: &'a ModelConfig,
    /// The arena.
    pub layout: &'a Layout,
}

/// `values`, an arena of `to`, with the weights `from_values` of `from`, and notes on what was made to fit. The
/// position table of images is interpolated; text positions are cut, or the new ones stay as they are in `values`, and
/// so do the parameters of another loss. A note names choices that differ and have no parameters.
///
/// # Errors
/// Names the first parameter that one of them does not have, or that they have in different shapes.
pub fn fit(
    from: Model<'_>,
    from_values: &[f32],
    to: Model<'_>,
    mut values: Vec<f32>,
) -> Result<(Vec<f32>, Vec<String>), InteropError> {
    let mut notes = Vec::new();
    let has = |model: Model<'_>, name: &str| model.layout.specs().iter().any(|spec| spec.name == name);
    let same_loss = has(from, "logit_bias") == has(to, "logit_bias");
    let unused = |name: &str| !has(to, name) && (same_loss || !name.starts_with("logit_"));
    if let Some(spec) = from.layout.specs().iter().find(|spec| unused(&spec.name)) {
        let problem =
            "is in the model to start from, and this model has no place for it; without --model, it is that model";
        return Err(InteropError::Parameter { name: spec.name.clone(), problem: problem.to_owned() });
    }
    let changed = changed(from.config, to.config);
    if !changed.is_empty() {
        let names = changed.join(", ");
        notes.push(format!("{WARNING}this model computes otherwise than the one to start from: {names} differ"));
    }
    for spec in to.layout.specs() {
        if !same_loss && spec.name.starts_with("logit_") {
            continue;
        }
        let Some(theirs) = from.layout.specs().iter().find(|theirs| theirs.name == spec.name) else {
            let problem = "is not in the model to start from".to_owned();
            return Err(InteropError::Parameter { name: spec.name.clone(), problem });
        };
        let (found, target) = (&from_values[theirs.range()], &mut values[spec.range()]);
        let side = |model: Model<'_>| model.config.image_size / model.config.patch_size;
        match spec.name.as_str() {
            _ if spec.shape == theirs.shape => target.copy_from_slice(found),
            "visual.positional_embedding" if spec.shape[1] == theirs.shape[1] => {
                let (old, new, width) = (side(from), side(to), spec.shape[1]);
                notes.push(format!("positions of images interpolated from {old} x {old} patches to {new} x {new}"));
                let (cls, patches) = found.split_at(width);
                target[..width].copy_from_slice(cls);
                target[width..].copy_from_slice(&interpolate::square(patches, width, old, new));
            }
            "positional_embedding" if spec.shape[1] == theirs.shape[1] => {
                let (old, new) = (theirs.shape[0], spec.shape[0]);
                notes.push(match old > new {
                    true => format!("positions of texts cut from {old} to {new}"),
                    false => format!("positions of texts extended from {old} to {new}; the new ones start at random"),
                });
                let kept = found.len().min(target.len());
                target[..kept].copy_from_slice(&found[..kept]);
            }
            name => {
                let problem = format!("is {:?} in the model to start from, and {:?} here", theirs.shape, spec.shape);
                return Err(InteropError::Parameter { name: name.to_owned(), problem });
            }
        }
    }
    Ok((values, notes))
}

/// The choices that change what a model computes with the same parameters, where they differ.
fn changed(from: &ModelConfig, to: &ModelConfig) -> Vec<&'static str> {
    let eps = |model: &ModelConfig, tower: &TowerConfig| tower.ln_eps.unwrap_or(model.ln_eps);
    let choices = [
        ("vision.heads", from.vision.heads != to.vision.heads),
        ("text.heads", from.text.heads != to.text.heads),
        ("vision.activation", from.vision.activation != to.vision.activation),
        ("text.activation", from.text.activation != to.text.activation),
        ("vision.ln_eps", eps(from, &from.vision) != eps(to, &to.vision)),
        ("text.ln_eps", eps(from, &from.text) != eps(to, &to.text)),
        ("normalisation", from.normalisation != to.normalisation),
        ("image_pool", from.image_pool != to.image_pool),
        ("ln_after_pool", from.ln_after_pool != to.ln_after_pool),
        ("causal", from.causal != to.causal),
        ("text_pool", from.text_pool != to.text_pool),
    ];
    choices.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flip, ImagePool, Loss, Positions, Preset};

    fn config() -> ModelConfig {
        ModelConfig { positions: Positions::Learned, ..Preset::Tiny.config() }
    }

    fn fitted(
        change: impl Fn(ModelConfig) -> ModelConfig,
        loss: Loss,
    ) -> Result<(Vec<f32>, Vec<String>, Flip), String> {
        let (config, changed) = (config(), change(config()));
        let (from, to) = (Flip::new(&config, true), Flip::with_loss(&changed, loss, true));
        let ones = vec![1.0; from.layout().arena_len()];
        let values = vec![2.0; to.layout().arena_len()];
        let old = Model { config: &config, layout: from.layout() };
        let fitted = fit(old, &ones, Model { config: &changed, layout: to.layout() }, values);
        let (values, notes) = fitted.map_err(|error| error.to_string())?;
        Ok((values, notes, to))
    }

    fn of<'a>(values: &'a [f32], flip: &Flip, name: &str) -> &'a [f32] {
        let spec = flip.layout().specs().iter().find(|spec| spec.name == name).unwrap();
        &values[spec.range()]
    }

    #[test]
    fn tables_of_positions_are_made_to_fit() {
        let (values, notes, flip) =
            fitted(|config| ModelConfig { image_size: 64, context: 20, ..config }, Loss::Infonce).unwrap();
        assert_eq!(
            notes,
            [
                "positions of images interpolated from 6 x 6 patches to 8 x 8",
                "positions of texts extended from 16 to 20; the new ones start at random"
            ]
        );
        assert!(of(&values, &flip, "visual.positional_embedding").iter().all(|x| (x - 1.0).abs() < 1e-6));
        let texts = of(&values, &flip, "positional_embedding");
        assert!(texts[..16 * 128].iter().all(|x| *x == 1.0) && texts[16 * 128..].iter().all(|x| *x == 2.0));
        let (_, notes, _) = fitted(|config| ModelConfig { context: 9, ..config }, Loss::Infonce).unwrap();
        assert_eq!(notes, ["positions of texts cut from 16 to 9"]);
    }

    #[test]
    fn what_cannot_fit_is_named() {
        let (values, notes, flip) = fitted(|config| config, Loss::Sigmoid).unwrap();
        assert_eq!(
            (of(&values, &flip, "logit_bias"), of(&values, &flip, "logit_scale"), notes.len()),
            (&[2.0][..], &[2.0][..], 0)
        );
        let error = fitted(|config| ModelConfig { vocab: 5000, ..config }, Loss::Infonce).err().unwrap();
        assert_eq!(error, "`token_embedding.weight` is [4096, 128] in the model to start from, and [5000, 128] here");
        let error = fitted(|config| ModelConfig { ln_pre: true, ..config }, Loss::Infonce).err().unwrap();
        assert_eq!(error, "`visual.ln_pre.weight` is not in the model to start from");
        let error = fitted(|config| ModelConfig { patch_bias: false, ..config }, Loss::Infonce).err().unwrap();
        assert!(error.starts_with("`visual.conv1.bias` is in the model to start from, and this model has"), "{error}");
    }

    #[test]
    fn other_choices_are_named() {
        let change = |config: ModelConfig| ModelConfig {
            vision: TowerConfig { heads: 2, ..config.vision },
            image_pool: ImagePool::Patches,
            ..config
        };
        let (_, notes, _) = fitted(change, Loss::Infonce).unwrap();
        assert_eq!(
            notes,
            ["warning: this model computes otherwise than the one to start from: vision.heads, image_pool differ"]
        );
    }
}
