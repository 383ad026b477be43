//! Reads every sample as training does.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::Input;
use crate::data::broken::{Broken, Kind, confined};
use crate::data::dataset::View;
use crate::data::format::is_damage;
use crate::data::loader::Skipped;
use crate::data::sample::Tokenizer;

/// Samples that are read between two looks at `stop`.
const CHUNK: usize = 4096;

/// Something that is wrong with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The shard: its path, or `embedded:NAME`.
    pub shard: String,
    /// The sample's key; `None` if the whole shard cannot be used, or for a note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why it is broken; `None` for a shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// For a message.
    pub reason: String,
}

/// What was found in all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Shards that were looked at.
    pub shards: u64,
    /// Shards that cannot be used at all.
    pub unusable_shards: u64,
    /// Samples in the others.
    pub samples: u64,
    /// An estimate of the samples that damage to archives has erased.
    pub lost: u64,
    /// Shards with damage, whether or not it is known to have cost samples: parts that cannot be read, a wrong
    /// checksum, or no end.
    pub damaged_shards: u64,
    /// Broken samples by kind.
    pub broken: Skipped,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

impl Checked {
    /// Whether every sample can be used, and no shard is damaged.
    pub fn is_good(&self) -> bool {
        self.unusable_shards == 0 && self.damaged_shards == 0 && self.lost == 0 && self.broken.is_empty()
    }
}

/// Reads and decodes all samples of `input` on all cores, with as many shards open as there are threads. Captions are
/// also encoded by `tokenizer`, if there is one. `broken` is called for each broken sample and for each shard that
/// cannot be used, in order, `note` with each note on damage, and `progress` with the number of shards that are done.
pub fn check(
    input: &Input,
    tokenizer: Option<&Tokenizer>,
    stop: &AtomicBool,
    broken: &mut dyn FnMut(Finding),
    note: &mut dyn FnMut(String),
    progress: &mut dyn FnMut(u64),
) -> Checked {
    let mut checked = Checked::default();
    for first in (0..input.shards()).step_by(Input::group()) {
        let numbers = first..(first + Input::group()).min(input.shards());
        for (number, opened) in numbers.clone().zip(input.open_all(numbers)) {
            let name = input.locations[number].to_string();
            checked.shards += 1;
            match opened {
                Err(error) => {
                    checked.unusable_shards += 1;
                    broken(Finding { shard: name, key: None, kind: None, reason: error.to_string() });
                }
                Ok((shard, report)) => {
                    checked.damaged_shards += u64::from(report.notes.iter().any(|(kind, _)| is_damage(*kind)));
                    report.notes.into_iter().for_each(|(_, text)| note(text));
                    checked.lost += shard.lost;
                    let all: Vec<u32> = (0..shard.samples.len() as u32).collect();
                    for chunk in all.chunks(CHUNK) {
                        if stop.load(Ordering::Relaxed) {
                            checked.stopped = true;
                            return checked;
                        }
                        let look = |&sample: &u32| {
                            let held = input.held(&shard, (number as u32, sample));
                            let view = held.view();
                            let why = confined(|| read(view, tokenizer)).err()?;
                            Some((view.key().into_owned(), why))
                        };
                        let found: Vec<Option<(String, Broken)>> = chunk.par_iter().map(look).collect();
                        checked.samples += chunk.len() as u64;
                        for (key, why) in found.into_iter().flatten() {
                            *checked.broken.entry(why.kind).or_default() += 1;
                            let (key, kind, reason) = (Some(key), Some(why.kind), why.detail);
                            broken(Finding { shard: name.clone(), key, kind, reason });
                        }
                    }
                }
            }
            progress(checked.shards);
        }
    }
    checked
}

/// Reads all that training needs of a sample. The whole image is decoded, of which training may need only a part.
fn read(view: View<'_>, tokenizer: Option<&Tokenizer>) -> Result<(), Broken> {
    view.decoded()?;
    let caption = view.caption()?;
    for text in tokenizer.iter().flat_map(|tokenizer| caption.texts.iter().map(move |text| (tokenizer, text))) {
        let (tokenizer, text) = text;
        let refused = tokenizer.unknown_words(text).err();
        if let Some(error) = refused {
            return Err(Broken { kind: Kind::MissingCaption, detail: error.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::CaptionKeys;
    use crate::data::sample::image::Decoding;
    use crate::data::testing::{Archive, jpeg, png};

    /// The exit code and the counts follow the notes that say "fetch it again".
    #[test]
    fn damage_that_costs_no_known_sample_is_counted() {
        use std::io::Write;
        let mut archive = Archive::default();
        for number in 0..3 {
            archive.add(&format!("{number}.png"), &png(4, 4, number)).add(&format!("{number}.txt"), b"cat");
        }
        let whole = std::fs::read(archive.file()).unwrap();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&whole).unwrap();
        let mut wrong_sum = packer.finish().unwrap();
        let at = wrong_sum.len() - 8;
        wrong_sum[at] ^= 1;
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes, damaged) in
            [("whole.tar", &whole[..], 0), ("sum.tar.gz", &wrong_sum[..], 1), ("cut.tar", &whole[..4 * 1024], 1)]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let specs = [path.display().to_string()];
            let input = Input::find(&specs, CaptionKeys::default(), Decoding::default()).unwrap();
            let go = AtomicBool::new(false);
            let checked = check(&input, None, &go, &mut |_| {}, &mut |_| {}, &mut |_| {});
            assert_eq!((checked.damaged_shards, checked.is_good()), (damaged, damaged == 0), "{name} {checked:?}");
            assert!(checked.broken.is_empty() && checked.lost == 0 && checked.samples >= 2, "{name} {checked:?}");
        }
    }

    #[test]
    fn caption_keys_are_checked_before_shards_are_read() {
        let keys = CaptionKeys { caption_key: Some("title:-1,filepath:2".to_owned()), ..CaptionKeys::default() };
        let error = Input::find(&["embedded:noto"], keys, Decoding::default()).unwrap_err().to_string();
        assert!(error.contains("a probability must be a number above 0"), "{error}");
    }

    #[test]
    fn every_broken_sample_is_found_and_no_other() {
        let (mut a, mut b) = (Archive::default(), Archive::default());
        let cut = jpeg(64, 48, 1);
        a.add("1.png", &png(4, 4, 1)).add("1.txt", b"cat");
        a.add("2.jpg", &cut[..cut.len() / 2]).add("2.txt", b"dog");
        a.add("3.png", &png(4, 4, 1)).add("3.txt", b"\xFF");
        b.add("4.png", &png(4, 4, 1));
        b.add("5.png", &png(4, 4, 1)).add("5.txt", b"cow");
        let empty = tempfile::NamedTempFile::with_suffix(".tar").unwrap();
        let shards = [a.file(), empty.path().display().to_string(), b.file()];
        let input = Input::find(&shards, CaptionKeys::default(), Decoding::default()).unwrap();
        let (mut found, mut done) = (Vec::new(), 0);
        let go = AtomicBool::new(false);
        let checked = check(&input, None, &go, &mut |one| found.push(one), &mut |_| {}, &mut |n| done = n);
        let places: Vec<_> = found.iter().map(|one| (one.shard.as_str(), one.key.as_deref(), one.kind)).collect();
        let expected = [
            (&*shards[0], Some("2"), Some(Kind::BadImage)),
            (&*shards[0], Some("3"), Some(Kind::NonUtf8Caption)),
            (&*shards[1], None, None),
            (&*shards[2], Some("4"), Some(Kind::MissingCaption)),
        ];
        assert_eq!(places, expected);
        assert_eq!((checked.shards, checked.unusable_shards, checked.samples, done), (3, 1, 5, 3));
        assert!(!checked.is_good() && !checked.stopped && checked.broken.values().sum::<u64>() == 3);
        let stopped = check(&input, None, &AtomicBool::new(true), &mut |_| {}, &mut |_| {}, &mut |_| {});
        assert!(stopped.stopped && stopped.samples == 0);
    }
}
