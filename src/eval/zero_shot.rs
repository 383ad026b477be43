//! Zero-shot classification (Radford et al. 2021, section 3.1): an image belongs to the class whose name, put into
//! prompt templates, is nearest.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::EvalError;
use super::encode::{Encoder, Inputs};
use super::ranks::{ranks, within};
use crate::autograd::Parameters;
use crate::ops::AllOps;

/// The share of images whose class is the nearest, and among the nearest five.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ZeroShot {
    pub images: usize,
    pub classes: usize,
    pub top1: f64,
    pub top5: f64,
}

/// The classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames(Vec<String>);

/// Prompts with `{}` where the class name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

fn lines(path: &Path) -> Result<Vec<String>, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::Read { path: path.to_owned(), source })?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match lines.is_empty() {
        true => Err(EvalError::List { path: path.to_owned(), problem: "it has no lines".to_owned() }),
        false => Ok(lines),
    }
}

impl ClassNames {
    /// One name per line; a sample's class is the line that equals its caption, or, where the caption is a number, the
    /// line of that number, counted from 0.
    pub fn from_file(path: &Path) -> Result<Self, EvalError> {
        lines(path).map(Self)
    }

    /// The distinct captions, in order of first appearance.
    fn distinct(captions: &[String]) -> Self {
        let mut seen = std::collections::HashSet::new();
        Self(captions.iter().filter(|caption| seen.insert(*caption)).cloned().collect())
    }
}

impl Templates {
    /// One template per line, each with `{}`.
    pub fn from_file(path: &Path) -> Result<Self, EvalError> {
        let templates = lines(path)?;
        match templates.iter().find(|template| !template.contains("{}")) {
            Some(bad) => {
                Err(EvalError::List { path: path.to_owned(), problem: format!("{bad:?} has no {{}} for the name") })
            }
            None => Ok(Self(templates)),
        }
    }
}

impl Default for Templates {
    /// The name alone.
    fn default() -> Self {
        Self(vec!["{}".to_owned()])
    }
}

/// Classifies every image of a data set. `classes`: `None` for the data set's distinct captions.
///
/// # Errors
/// A sample of no class, too many broken samples, or the device's.
pub fn zero_shot<D: AllOps>(
    encoder: &mut Encoder<D>,
    params: &Parameters<D>,
    inputs: &Inputs,
    classes: Option<&ClassNames>,
    templates: &Templates,
) -> Result<ZeroShot, EvalError> {
    let images = encoder.images(params, inputs)?;
    let distinct;
    let ClassNames(names) = match classes {
        Some(classes) => classes,
        None => {
            distinct = ClassNames::distinct(&images.captions);
            &distinct
        }
    };
    let numbers: HashMap<&str, usize> =
        names.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let by_number = |caption: &str| caption.parse().ok().filter(|number| *number < names.len());
    let class = |(caption, sample): (&String, &u64)| {
        let caption = caption.trim();
        let found = numbers.get(caption).copied().or_else(|| by_number(caption));
        found.ok_or_else(|| EvalError::NoClass {
            sample: inputs.dataset.name(*sample),
            caption: caption.to_owned(),
            classes: names.len(),
        })
    };
    let class_of: Vec<usize> = images.captions.iter().zip(&images.samples).map(class).collect::<Result<_, _>>()?;
    let width = encoder.width();
    let mut means = vec![0.0; names.len() * width];
    for template in &templates.0 {
        let prompts: Vec<String> = names.iter().map(|name| template.replace("{}", name)).collect();
        let rows = encoder.texts(params, inputs.tokenizer, &prompts)?;
        means.iter_mut().zip(rows).for_each(|(mean, row)| *mean += row);
    }
    for mean in means.chunks_exact_mut(width) {
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-8;
        mean.iter_mut().for_each(|x| *x /= norm);
    }
    let ranks = ranks(&images.rows, &means, width, |image, class| class_of[image] == class);
    Ok(ZeroShot { images: ranks.len(), classes: names.len(), top1: within(&ranks, 1), top5: within(&ranks, 5) })
}
