//! Lower-casing that an option turns on or off.

use tokenizers::NormalizerWrapper;
use tokenizers::normalizers::{Lowercase, Sequence};

/// The same normalizer with or without lower-casing.
pub(super) fn set_case(normalizer: Option<NormalizerWrapper>, lower: bool) -> Option<NormalizerWrapper> {
    fn without(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
        match normalizer {
            NormalizerWrapper::Lowercase(_) => None,
            NormalizerWrapper::BertNormalizer(mut bert) => {
                bert.lowercase = false;
                Some(bert.into())
            }
            NormalizerWrapper::Sequence(sequence) => {
                Some(Sequence::new(sequence.into_iter().filter_map(without).collect()).into())
            }
            other => Some(other),
        }
    }
    fn lowers(normalizer: &mut NormalizerWrapper) -> bool {
        match normalizer {
            NormalizerWrapper::Lowercase(_) => true,
            NormalizerWrapper::BertNormalizer(bert) => {
                bert.lowercase = true;
                true
            }
            // Only in the first normalizer that can.
            NormalizerWrapper::Sequence(sequence) => sequence.as_mut().iter_mut().any(lowers),
            _ => false,
        }
    }
    match (normalizer, lower) {
        (None, false) => None,
        (None, true) => Some(Lowercase.into()),
        (Some(normalizer), false) => without(normalizer),
        (Some(mut normalizer), true) => match lowers(&mut normalizer) {
            true => Some(normalizer),
            false => Some(Sequence::new(vec![normalizer, Lowercase.into()]).into()),
        },
    }
}
