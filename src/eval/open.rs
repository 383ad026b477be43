//! Opening data for evaluation.

use crate::data::{CaptionKeys, DataError, Dataset, Result};

/// Opens data to evaluate a model that was trained with `keys`. If there are no captions under the run's key, the usual
/// places are tried, and the second value is a note about that.
///
/// # Errors
/// See [`Dataset::open`]. If there are no captions in the usual places either, the error is the one for `keys`.
pub fn open<S: AsRef<str>>(specs: &[S], keys: &CaptionKeys) -> Result<(Dataset, Option<String>)> {
    let error = match (Dataset::open(specs, keys.clone()), &keys.caption_key) {
        (Err(error @ DataError::NoCaptions { .. }), Some(_)) => error,
        (opened, _) => return Ok((opened?, None)),
    };
    let usual = CaptionKeys { caption_key: None, ..keys.clone() };
    match Dataset::open(specs, usual) {
        Ok(dataset) => {
            let key = keys.caption_key.as_deref().unwrap_or_default();
            let note = format!(
                "the evaluation data have no captions under the run's key `{key}`; they are read from .txt members, or \
                 else from the field `caption`"
            );
            Ok((dataset, Some(note)))
        }
        Err(_) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Archive;

    #[test]
    fn data_without_the_runs_key_are_read_as_usual() {
        let mut archive = Archive::default();
        for (name, data) in [("1.png", "x"), ("1.txt", "a cat"), ("1.json", r#"{"alt": "a dog"}"#)] {
            archive.add(name, data.as_bytes());
        }
        let specs = [archive.file()];
        let caption = |key: Option<&str>| {
            let keys = CaptionKeys { caption_key: key.map(str::to_owned), ..CaptionKeys::default() };
            let (dataset, note) = open(&specs, &keys).unwrap();
            (dataset.caption(0).unwrap().first().to_owned(), note)
        };
        assert_eq!(caption(None), ("a cat".to_owned(), None));
        assert_eq!(caption(Some("alt")), ("a dog".to_owned(), None));
        let (found, note) = caption(Some("title"));
        assert!(found == "a cat" && note.unwrap().contains("the run's key `title`"));
    }
}
