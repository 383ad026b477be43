//! Retrieval: finding the text of an image, and an image of a text, among all.

use std::collections::HashMap;

use serde::Serialize;

use super::EvalError;
use super::encode::{Encoder, Inputs};
use super::ranks::{ranks, within};
use crate::autograd::Parameters;
use crate::ops::AllOps;

/// The share of queries with a right answer among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    pub r1: f64,
    pub r5: f64,
    pub r10: f64,
}

/// Recall both ways. Images with the same caption share one text, and any of them is a right answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    pub images: usize,
    /// Distinct captions.
    pub texts: usize,
    pub image_to_text: Recall,
    pub text_to_image: Recall,
}

impl Recall {
    fn of(ranks: &[usize]) -> Self {
        Self { r1: within(ranks, 1), r5: within(ranks, 5), r10: within(ranks, 10) }
    }
}

/// Recall over a whole data set.
///
/// # Errors
/// Too many broken samples, or the device's.
pub fn retrieval<D: AllOps>(
    encoder: &mut Encoder<D>,
    params: &Parameters<D>,
    inputs: &Inputs,
) -> Result<Retrieval, EvalError> {
    let images = encoder.images(params, inputs)?;
    let mut numbers = HashMap::new();
    let mut texts: Vec<String> = Vec::new();
    let mut number = |caption: &String| {
        *numbers.entry(caption.clone()).or_insert_with(|| {
            texts.push(caption.clone());
            texts.len() - 1
        })
    };
    let text_of: Vec<usize> = images.captions.iter().map(&mut number).collect();
    let rows = encoder.texts(params, inputs.tokenizer, &texts)?;
    let width = encoder.width();
    let image_to_text = ranks(&images.rows, &rows, width, |image, text| text_of[image] == text);
    let text_to_image = ranks(&rows, &images.rows, width, |text, image| text_of[image] == text);
    Ok(Retrieval {
        images: text_of.len(),
        texts: texts.len(),
        image_to_text: Recall::of(&image_to_text),
        text_to_image: Recall::of(&text_to_image),
    })
}
