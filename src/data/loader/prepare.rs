//! From an open sample to an item of a batch.

use std::cell::RefCell;

use bytes::BytesMut;
use serde::Serialize;

use super::LoaderConfig;
use super::effort::{Laps, Stage};
use crate::data::broken::{Broken, Kind};
use crate::data::dataset::View;
use crate::data::error::DataError;
use crate::data::sample::image::{Part, Square};
use crate::data::sample::{CropRect, Masks, Tokenizer, Words};
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
    /// `[kept, patch, patch, 3]`: a row of a batch, or memory of its own if the sample replaces a broken one.
    pub(super) image: BytesMut,
    /// `[context]`; not set without a tokenizer.
    pub(super) tokens: Vec<i32>,
    /// `[kept]`.
    pub(super) ids_keep: Vec<u32>,
    pub(super) origin: Origin,
}

/// Decodes, crops, masks and tokenises, on one thread; reuses its work space.
pub(crate) struct Preparer {
    words: Option<Words>,
    config: LoaderConfig,
    masks: Masks,
    /// Of a decoded image.
    pixels: Vec<u8>,
    square: Square,
    pub(super) laps: Laps,
}

impl Preparer {
    pub(crate) fn new(tokenizer: Option<Tokenizer>, config: LoaderConfig) -> Self {
        let (words, laps) = (tokenizer.map(Words::new), Laps::new(config.time_stages));
        let square = Square::new(config.image_size, config.patch_size);
        Self { words, config, masks: Masks::default(), pixels: Vec::new(), square, laps }
    }

    /// Starts again after a panic, which may have left it in a bad state.
    pub(super) fn reset(&mut self) {
        self.square = Square::new(self.config.image_size, self.config.patch_size);
    }

    /// Prepares a sample into `item`. Random numbers are keyed by `epoch` and `key`. If the sample is broken, the item
    /// is meaningless.
    pub(crate) fn prepare(&mut self, view: View, epoch: u64, key: u64, item: &mut Item) -> Result<(), Broken> {
        let Self { words, config, masks, pixels, square, laps } = self;
        let random = |purpose| Random::new(config.seed, purpose, epoch, key);

        laps.begin();
        let caption = &mut item.origin.caption;
        view.vary_caption(&config.captions, &mut random(Purpose::Caption), caption)?;
        laps.end(Stage::Reading);
        if let Some(words) = words {
            item.tokens.resize(config.context, 0);
            let stored = view.with_tokens(|stored| {
                laps.end(Stage::Reading);
                words.encode_stored(stored, caption, &mut item.tokens)
            })?;
            if stored != Some(true) {
                let refused = |error: DataError| Broken { kind: Kind::MissingCaption, detail: error.to_string() };
                words.encode(caption, &mut item.tokens).map_err(refused)?;
            }
        }
        laps.end(Stage::Tokenizing);

        item.ids_keep.resize(config.kept(), 0);
        masks.draw(config.seed, epoch, key, config.patches(), &mut item.ids_keep);
        laps.end(Stage::Resizing);
        item.image.resize(config.row_bytes(), 0);
        let Item { image, ids_keep, origin, .. } = item;
        let (augmentation, random) = (&config.augmentation, RefCell::new(random(Purpose::Crop)));
        let choose = |width, height| {
            (origin.width, origin.height) = (width, height);
            origin.crop = augmentation.crop(width, height, &mut random.borrow_mut());
            origin.crop
        };
        let cut = |part: &Part| {
            laps.end(Stage::Decoding);
            let cut = square.cropped(part, augmentation, &mut random.borrow_mut(), ids_keep, image);
            laps.end(Stage::Resizing);
            cut
        };
        view.with_part(pixels, || laps.end(Stage::Reading), choose, cut)?
            .map_err(|why| Broken { kind: Kind::BadImage, detail: why.to_string() })
    }
}
