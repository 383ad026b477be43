//! Zero-shot classification (Radford et al. 2021, section 3.1): class names are put into prompt templates and embedded,
//! and an image belongs to the nearest class.

use serde::Serialize;

use super::EvalError;
use super::classes::Classes;
use super::encode::{Encoder, Inputs};
use super::lists::Templates;
use super::numbers::Numbers;
use super::ranks::{ranks, within};
use crate::autograd::Parameters;
use crate::ops::AllOps;

/// The shares of images for which the right class is the nearest (top-1) or among the five nearest (top-5).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ZeroShot {
    /// Images that were classified.
    pub images: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// In [0, 1].
    pub top1: f64,
    /// In [0, 1].
    pub top5: f64,
}

/// Classifies every image of a data set. Of equally near classes, the first is predicted.
///
/// # Errors
/// Too many broken samples, a failure of the device, or [`EvalError::Stopped`].
pub fn zero_shot<D: AllOps>(
    encoder: &mut Encoder<D>,
    params: &Parameters<D>,
    inputs: &Inputs,
    classes: &Classes,
    templates: &Templates,
) -> Result<ZeroShot, EvalError> {
    let images = encoder.images(params, inputs)?;
    // Equal names share a row, so that their similarities are equal to the bit.
    let mut rows = Numbers::new();
    let mut distinct: Vec<&str> = Vec::new();
    let mut row_of: Vec<usize> = Vec::new();
    let mut number_of: Vec<u32> = Vec::new();
    for (number, name) in (0..).zip(classes.names()).filter(|(_, name)| !name.is_empty()) {
        let (row, new) = rows.of(name);
        if new {
            distinct.push(name);
        }
        row_of.push(row);
        number_of.push(number);
    }
    let width = encoder.width();
    let mut means = vec![0.0; distinct.len() * width];
    for fill in templates.iter() {
        inputs.report(0)?;
        let prompts: Vec<String> = distinct.iter().map(|name| fill(name)).collect();
        let rows = encoder.texts(params, inputs.tokenizer, &prompts)?;
        means.iter_mut().zip(rows).for_each(|(mean, row)| *mean += row);
    }
    for mean in means.chunks_exact_mut(width) {
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-8;
        mean.iter_mut().for_each(|x| *x /= norm);
    }
    let candidates: Vec<f32> = row_of.iter().flat_map(|&row| &means[row * width..][..width]).copied().collect();
    let own = |image: usize, class: usize| classes.of_sample(images.samples[image]).contains(&number_of[class]);
    let ranks = ranks(&images.rows, &candidates, width, own);
    Ok(ZeroShot { images: ranks.len(), classes: number_of.len(), top1: within(&ranks, 1), top5: within(&ranks, 5) })
}
