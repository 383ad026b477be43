//! A picture of samples as the model sees them; `sheet` draws it.

mod sheet;

use ::image::RgbImage;
use serde::Serialize;

use self::sheet::{Sheet, Tile};
use crate::data::broken::confined;
use crate::data::dataset::TrainingData;
use crate::data::error::{DataError, Result};
use crate::data::loader::{Batch, Loader, LoaderConfig, Origin, Position, Skipped};
use crate::data::sample::Tokenizer;
use crate::log;

/// What is on the sheet, and what was skipped.
#[derive(Clone, Debug, Serialize)]
pub struct Previewed {
    /// For each sample the original with its crop, the crop's visible patches, and the caption.
    #[serde(skip)]
    pub picture: RgbImage,
    /// In their order on the sheet.
    pub samples: Vec<Shown>,
    /// Broken samples before the last one that is shown, by kind.
    pub skipped: Skipped,
}

/// A sample on the sheet.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The path of the shard, or `embedded:NAME`.
    pub shard: String,
    /// The sample's key in the shard.
    pub key: String,
    /// The image's size, its crop, and the caption.
    #[serde(flatten)]
    pub origin: Origin,
    /// Tokens of the whole caption.
    pub tokens: usize,
    /// Whether the model sees fewer of them.
    pub cut: bool,
}

/// Draws the first `count` samples of a run with `config`, in rows of `columns`, or of as many as make a sheet about
/// 1,600 pixels wide. A small data set is visited again, with other crops. Broken samples are logged.
///
/// # Errors
/// As [`Loader::new`] and [`Loader::next_batch`]; a sheet that is too large.
pub fn preview(
    data: &TrainingData,
    tokenizer: &Tokenizer,
    config: &LoaderConfig,
    count: usize,
    columns: Option<usize>,
) -> Result<Previewed> {
    config.validate()?;
    let sheet = Sheet::new(config, count, columns)?;
    // Rows that all come from the first stream do not depend on the batch: batches of one need not wait for more.
    let streams = config.streams;
    let (batch, own) = match streams == 1 || count <= config.batch / streams {
        true => (streams, 0..1),
        false => (config.batch, 0..streams),
    };
    let loaded = LoaderConfig { batch, ..config.clone() };
    let mut loader = Loader::of_streams(data.clone(), tokenizer.clone(), loaded, Position::start(streams), own)?;
    let mut all = Batch::default();
    while all.samples.len() < count {
        let batch = loader.next_batch();
        let found = loader.pending();
        let counted = loader.count(&found);
        log::lines(loader.take_warnings());
        let Batch { images, ids_keep, samples, origins, .. } = batch?;
        counted?;
        all.images.extend_from_slice(&images);
        all.ids_keep.extend(ids_keep);
        all.samples.extend(samples);
        all.origins.extend(origins);
    }
    let skipped = loader.skipped();
    drop(loader);
    all.samples.truncate(count);
    // Damage outside the crop is found only here.
    let originals = data.each(&all.samples, |view| {
        let image = confined(|| view.decoded()).map(|image| sheet.fitted(&image));
        (view.shard(), view.key().into_owned(), image)
    });
    let mut found = Previewed { picture: sheet.blank(), samples: Vec::new(), skipped };
    let patches = all.images.chunks_exact(config.kept() * config.patch_size.pow(2) * 3);
    let visible = patches.zip(all.ids_keep.chunks_exact(config.kept()));
    for ((original, &sample), (origin, (patches, ids_keep))) in
        originals.into_iter().zip(&all.samples).zip(all.origins.into_iter().zip(visible))
    {
        let (shard, key, original) = original.ok_or_else(|| {
            let shard = data.shard_location(data.shard_number(sample)).to_string();
            DataError::Unreadable { shard, problem: "it could be read a moment ago".to_owned() }
        })?;
        let (tokens, _) = tokenizer.unknown_words(&origin.caption)?;
        let shown = Shown { shard, key, origin, tokens, cut: tokens > config.context };
        let tile = Tile { shown: &shown, original: original.as_ref().map_err(|why| &*why.detail), patches, ids_keep };
        sheet.draw(&mut found.picture, found.samples.len(), &tile);
        found.samples.push(shown);
    }
    Ok(found)
}
