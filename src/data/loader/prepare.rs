//! From an open sample to an item of a batch.

use serde::Serialize;

use super::LoaderConfig;
use crate::data::broken::{Broken, Kind};
use crate::data::dataset::View;
use crate::data::error::DataError;
use crate::data::sample::image::Square;
use crate::data::sample::{CropRect, Tokenizer, visible_patches};
use crate::random::{Purpose, Random};

/// What a sample of a batch was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Width of the image in pixels, after its EXIF orientation, if that is applied.
    pub width: u32,
    /// Height, likewise.
    pub height: u32,
    /// The part of the image that became the square. The square may be mirrored.
    pub crop: CropRect,
    /// The text that was tokenised.
    pub caption: String,
}

/// One sample of a batch, in buffers that are reused.
#[derive(Debug, Default)]
pub(crate) struct Item {
    /// `[kept, patch, patch, 3]`.
    pub(super) image: Vec<u8>,
    /// `[context]`; not set without a tokenizer.
    pub(super) tokens: Vec<i32>,
    /// `[kept]`.
    pub(super) ids_keep: Vec<u32>,
    pub(super) origin: Origin,
}

/// Decodes, crops, masks and tokenises, on one thread.
pub(crate) struct Preparer {
    tokenizer: Option<Tokenizer>,
    config: LoaderConfig,
    square: Square,
}

impl Preparer {
    pub(crate) fn new(tokenizer: Option<Tokenizer>, config: LoaderConfig) -> Self {
        let square = Square::new(config.image_size, config.patch_size);
        Self { tokenizer, config, square }
    }

    /// Starts again after a panic, which may have left it in a bad state.
    pub(super) fn reset(&mut self) {
        self.square = Square::new(self.config.image_size, self.config.patch_size);
    }

    /// Prepares a sample into `item`. Random numbers are keyed by `epoch` and `key`. If the sample is broken, the item
    /// is meaningless.
    pub(crate) fn prepare(&mut self, view: View, epoch: u64, key: u64, item: &mut Item) -> Result<(), Broken> {
        let Self { tokenizer, config, square } = self;
        let random = |purpose| Random::new(config.seed, purpose, epoch, key);

        let caption = &mut item.origin.caption;
        *caption = view.caption()?.vary(&config.captions, &mut random(Purpose::Caption));
        if let Some(tokenizer) = tokenizer {
            item.tokens.resize(config.context, 0);
            let stored = view.tokens()?;
            if !stored.is_some_and(|stored| tokenizer.encode_stored(&stored, caption, &mut item.tokens)) {
                let refused = |error: DataError| Broken { kind: Kind::MissingCaption, detail: error.to_string() };
                tokenizer.encode(caption, &mut item.tokens).map_err(refused)?;
            }
        }

        item.ids_keep.resize(config.kept(), 0);
        visible_patches(config.seed, epoch, key, config.patches(), &mut item.ids_keep);
        item.image.resize(config.kept() * config.patch_size.pow(2) * 3, 0);
        let (augmentation, mut random) = (&config.augmentation, random(Purpose::Crop));
        let origin = &mut item.origin;
        let (image, crop) = view.decoded_part(|width, height| {
            (origin.width, origin.height) = (width, height);
            origin.crop = augmentation.crop(width, height, &mut random);
            origin.crop
        })?;
        square
            .cropped(&image, crop, augmentation, &mut random, &item.ids_keep, &mut item.image)
            .map_err(|why| Broken { kind: Kind::BadImage, detail: why.to_string() })
    }
}
