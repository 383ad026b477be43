//! Warnings before the first step about settings that cannot work, and during training about a model that learns
//! nothing.

use crate::data::{Variety, text::shorten};
use crate::model::Loss;

/// Warn if a larger share of a batch's captions occurs in it more than once.
const REPEATED: f64 = 0.1;
/// Mean cosine above which embeddings count as alike. In a model that learns it is below 0.9 after a few steps.
const ALIKE: f64 = 0.98;

/// Steps before embeddings are examined: those of a newly initialised model are alike.
pub(super) const FIRST_STEPS: u64 = 20;

/// What [`warnings`] examines.
pub(super) struct Run<'a> {
    /// In the data; `None` if unknown.
    pub samples: Option<u64>,
    pub captions: &'a Variety,
    pub batch: usize,
    /// Steps of the whole run.
    pub total: u64,
    /// Steps of its warm-up.
    pub warmup: u64,
}

/// One line per setting that cannot work.
pub(super) fn warnings(run: &Run) -> Vec<String> {
    let Run { samples, captions, batch, total, warmup } = *run;
    let mut lines = Vec::new();
    if batch == 1 {
        lines.push(
            "warning: a batch of 1 has no negative pairs, so nothing can be learned; use a larger --batch".to_owned(),
        );
    } else if let Some(samples) = samples.filter(|&samples| batch as u64 > samples) {
        lines.push(format!(
            "warning: a batch of {batch} is larger than the data ({samples} samples): it contains pairs several times, as \
             negatives of themselves; use a smaller --batch or more data"
        ));
    }
    let repeated = captions.repeated(batch);
    if captions.samples > 1 && captions.distinct == 1 {
        lines.push(format!(
            "warning: the captions of all {} samples looked at are the same, {:?}: they cannot tell images apart, and the \
             loss cannot fall",
            captions.samples,
            shorten(&captions.example)
        ));
    } else if batch > 1 && repeated > REPEATED {
        lines.push(format!(
            "warning: about {:.0} % of a batch's captions will be in it more than once ({} samples have {} distinct \
             captions), as negatives of each other; use a smaller --batch or captions that differ",
            100.0 * repeated,
            captions.samples,
            captions.distinct,
        ));
    }
    if captions.numbers {
        lines.push(format!(
            "warning: the captions are numbers, such as {:?}: if these are class numbers, use the names of the classes instead",
            shorten(&captions.example)
        ));
    }
    if let Some((what, example)) = &captions.markup {
        lines.push(format!(
            "warning: most captions are {what}, such as {:?}: is it the right member or field? --caption-key names another",
            shorten(example)
        ));
    }
    if warmup >= total {
        lines.push(format!(
            "warning: the warm-up takes {warmup} steps and the run has {total}: the learning rate does not reach its peak; \
             use a smaller --warmup-samples"
        ));
    }
    lines
}

/// The loss, in nats, of a model that scores all pairs of a batch alike.
pub(super) fn loss_of_guessing(loss: Loss, batch: usize) -> f64 {
    let n = batch as f64;
    match loss {
        Loss::Infonce => n.ln(),
        // The best constant prediction is 1 / n, the share of positive pairs.
        Loss::Sigmoid if batch > 1 => n.ln() - (n - 1.0) * (1.0 - 1.0 / n).ln(),
        Loss::Sigmoid => 0.0,
    }
}

/// Whether a loss is no better than guessing, within 1 %.
pub(super) fn is_guessing(loss: f64, kind: Loss, batch: usize) -> bool {
    batch > 1 && loss >= 0.99 * loss_of_guessing(kind, batch)
}

/// The mean cosine between different rows of `[rows, width]`, which have L2 norm 1.
pub(super) fn mean_cosine(rows: &[f32], width: usize) -> f64 {
    let mut sum = vec![0.0f64; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let (n, length) = ((rows.len() / width) as f64, sum.iter().map(|x| x * x).sum::<f64>());
    // n of the n² products are of a row with itself.
    (length - n) / (n * (n - 1.0)).max(1.0)
}

/// The warning about a model whose loss is no better than guessing, if its embeddings are alike. `cosines`: the mean
/// cosine between images and between texts.
pub(super) fn collapse(loss: f64, kind: Loss, batch: usize, cosines: [f64; 2]) -> Option<String> {
    let [images, texts] = cosines;
    let rate = "Try a lower --lr, a longer --warmup-samples, or more samples";
    let (what, advice) = match (images > ALIKE, texts > ALIKE) {
        (true, true) => ("images and of all texts", rate),
        (true, false) => ("images", rate),
        (false, true) => (
            "texts",
            "Check that the captions differ and that the tokenizer knows their words; else try a lower --lr or a longer --warmup-samples",
        ),
        (false, false) => return None,
    };
    Some(format!(
        "warning: the model has collapsed: after the warm-up, the loss of {loss:.3} is no better than guessing ({:.3} with a \
         batch of {batch}), and the embeddings of all {what} are alike (mean cosine {:.3}). {advice}",
        loss_of_guessing(kind, batch),
        images.max(texts),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(captions: &[&str], samples: u64, batch: usize, (warmup, total): (u64, u64)) -> String {
        let captions: Vec<String> = captions.iter().map(|&caption| caption.to_owned()).collect();
        let variety = Variety::of_captions(&captions, true);
        warnings(&Run { samples: Some(samples), captions: &variety, batch, total, warmup }).join("\n")
    }

    #[test]
    fn each_setting_that_cannot_work_gets_one_line() {
        let own = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(lines(&own, 8, 8, (1, 10)), "");
        assert!(lines(&own, 8, 1, (1, 10)).contains("a batch of 1 "));
        assert!(lines(&own, 8, 9, (1, 10)).contains("a batch of 9 is larger than the data (8 samples)"));
        assert!(lines(&own, 8, 8, (10, 10)).contains("the warm-up takes 10 steps and the run has 10"));
        assert_eq!(lines(&own, 8, 8, (9, 10)), "");
        let alike = lines(&["a photo"; 8], 8, 4, (1, 10));
        assert!(
            alike.contains("all 8 samples") && alike.contains("\"a photo\"") && alike.lines().count() == 1,
            "{alike}"
        );
        let classes = lines(&["red", "blue", "red", "green", "red", "blue"], 6, 4, (1, 10));
        assert!(
            classes.contains("6 samples have 3 distinct captions") && classes.contains("% of a batch's"),
            "{classes}"
        );
        let numbers = lines(&["0", "1", "2", "3"], 4, 2, (1, 10));
        assert!(numbers.contains("the captions are numbers, such as \"0\""), "{numbers}");
    }

    /// By hand: `ln 4`, and four times the entropy of an event of probability 1/4.
    #[test]
    fn the_loss_of_guessing_is_known() {
        assert!((loss_of_guessing(Loss::Infonce, 4) - 1.386_294).abs() < 1e-6);
        let coin = -(0.25f64 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
        assert!((loss_of_guessing(Loss::Sigmoid, 4) - 4.0 * coin).abs() < 1e-9);
        assert!(is_guessing(1.38, Loss::Infonce, 4) && !is_guessing(1.37, Loss::Infonce, 4));
        assert!(is_guessing(1.5, Loss::Infonce, 4) && !is_guessing(0.0, Loss::Infonce, 1));
    }

    #[test]
    fn embeddings_that_are_alike_have_a_cosine_near_1() {
        assert!((mean_cosine(&[0.6, 0.8].repeat(5), 2) - 1.0).abs() < 1e-6);
        assert!(mean_cosine(&[1.0, 0.0, 0.0, 1.0], 2).abs() < 1e-6);
        assert!((mean_cosine(&[1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0], 2) + 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(mean_cosine(&[1.0, 0.0], 2), 0.0);
        let images = collapse(5.545, Loss::Infonce, 256, [0.999, 0.5]).unwrap();
        assert!(images.contains("of all images are alike") && images.contains("5.545 with a batch of 256"), "{images}");
        assert!(images.contains("--lr") && images.contains("--warmup-samples"), "{images}");
        let texts = collapse(5.545, Loss::Infonce, 256, [0.5, 0.999]).unwrap();
        assert!(texts.contains("of all texts are alike") && texts.contains("tokenizer"), "{texts}");
        assert!(collapse(5.545, Loss::Infonce, 256, [0.9, 0.5]).is_none());
    }
}
