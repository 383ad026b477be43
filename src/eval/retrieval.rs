//! Retrieval: the text of an image, and the image of a text, among all.

use serde::Serialize;

use super::EvalError;
use super::encode::{Encoder, Images, Inputs};
use super::numbers::Numbers;
use super::ranks::{ranks, within};
use crate::autograd::Parameters;
use crate::ops::AllOps;

/// The share of queries with a right answer among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recall {
    /// Among the first one.
    pub r1: f64,
    /// Among the first five.
    pub r5: f64,
    /// Among the first ten.
    pub r10: f64,
}

/// Recall in both directions. An image may have several texts, and a text several images; any that belongs to the query
/// is right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Distinct images: files with equal bytes are one.
    pub images: usize,
    /// Distinct captions.
    pub texts: usize,
    /// Recall of texts for each image.
    pub image_to_text: Recall,
    /// Recall of images for each text.
    pub text_to_image: Recall,
}

impl Recall {
    fn of(ranks: &[usize]) -> Self {
        Self { r1: within(ranks, 1), r5: within(ranks, 5), r10: within(ranks, 10) }
    }
}

/// Which texts belong to which image.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pairs {
    /// The first sample of each distinct image.
    images: Vec<usize>,
    /// Distinct captions in order of first appearance.
    texts: Vec<String>,
    /// The texts of each image, `[images]`, ascending.
    texts_of: Vec<Vec<usize>>,
}

impl Pairs {
    fn of(images: &Images) -> Self {
        let (mut this, mut contents, mut captions) = (Self::default(), Numbers::new(), Numbers::new());
        for (sample, (content, label)) in images.contents.iter().zip(&images.labels).enumerate() {
            let (image, new) = contents.of(*content);
            if new {
                this.images.push(sample);
                this.texts_of.push(Vec::new());
            }
            for caption in label.captions() {
                let (text, new) = captions.of(caption);
                if new {
                    this.texts.push(caption.clone());
                }
                this.texts_of[image].push(text);
            }
        }
        for texts in &mut this.texts_of {
            texts.sort_unstable();
            texts.dedup();
        }
        this
    }

    fn belong(&self, image: usize, text: usize) -> bool {
        self.texts_of[image].binary_search(&text).is_ok()
    }
}

/// Recall over a whole data set.
///
/// # Errors
/// Too many broken samples, or a failure of the device.
pub fn retrieval<D: AllOps>(
    encoder: &mut Encoder<D>,
    params: &Parameters<D>,
    inputs: &Inputs,
) -> Result<Retrieval, EvalError> {
    let samples = encoder.images(params, inputs)?;
    let pairs = Pairs::of(&samples);
    let width = encoder.width();
    let images: Vec<f32> = pairs.images.iter().flat_map(|&at| &samples.rows[at * width..][..width]).copied().collect();
    let texts = encoder.texts(params, inputs.tokenizer, &pairs.texts)?;
    let image_to_text = ranks(&images, &texts, width, |image, text| pairs.belong(image, text));
    let text_to_image = ranks(&texts, &images, width, |text, image| pairs.belong(image, text));
    Ok(Retrieval {
        images: pairs.images.len(),
        texts: pairs.texts.len(),
        image_to_text: Recall::of(&image_to_text),
        text_to_image: Recall::of(&text_to_image),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Label};

    #[test]
    fn lines_and_repeated_images_make_the_same_pairs() {
        let label = |captions: &[&str]| Label::Captions(captions.iter().map(|&caption| caption.to_owned()).collect());
        let content = |bytes: &[u8]| Content::of(bytes);
        let lines = Images {
            labels: vec![label(&["a cat", "one cat", "a cat"]), label(&["a dog", "an animal"])],
            contents: vec![content(b"1"), content(b"2")],
            ..Images::default()
        };
        let repeated = Images {
            labels: ["a cat", "one cat", "a dog", "a cat", "an animal"].map(|caption| label(&[caption])).to_vec(),
            contents: [b"1", b"1", b"2", b"1", b"2"].map(|bytes| content(bytes)).to_vec(),
            ..Images::default()
        };
        let found = Pairs::of(&lines);
        assert_eq!((found.images.as_slice(), found.texts.len()), (&[0, 1][..], 4));
        assert_eq!(found.texts_of, [[0, 1], [2, 3]]);
        let other = Pairs::of(&repeated);
        assert_eq!(
            (other.images.as_slice(), &other.texts, &other.texts_of),
            (&[0, 2][..], &found.texts, &found.texts_of)
        );
        assert!(found.belong(0, 1) && found.belong(1, 2) && !found.belong(0, 2));
        // A caption of two images is right for both.
        let shared = Images {
            labels: vec![label(&["a cat"]), label(&["a cat"])],
            contents: vec![content(b"1"), content(b"2")],
            ..Images::default()
        };
        assert_eq!(Pairs::of(&shared).texts_of, [[0], [0]]);
    }
}
