//! One sample: where its parts are, and how they are read.

use std::borrow::Cow;
use std::sync::Arc;

use ::image::RgbImage;

use super::cache::Cache;
use crate::data::broken::{Broken, Kind};
use crate::data::error::Result;
use crate::data::format::{Entry, Naming, Shard, printable};
use crate::data::sample::CropRect;
use crate::data::sample::image::{self, Decoding, ExifOrientation, ImageError, Part};
use crate::data::sample::{Caption, CaptionKeys, CaptionVariation, ClassNumbers, Label, label};
use crate::random::Random;

/// Memory for pixels is kept for the next sample up to this many bytes: 11 megapixels.
const MAX_KEPT: usize = 32 << 20;

/// How samples are read: the same for all of a data set.
pub(crate) struct Reader {
    pub(super) keys: CaptionKeys,
    pub(super) decoding: Decoding,
    pub(super) cache: Arc<Cache>,
    /// In the data set.
    pub(super) samples: usize,
}

impl Reader {
    /// Whether the cache keeps an image of this size. It keeps whole images at their full size, so none that may be
    /// scaled while it is decoded.
    fn keeps(&self, decoding: Decoding, width: u32, height: u32) -> bool {
        self.cache.fits(width as usize * height as usize * 3, self.samples)
            && decoding.scale(CropRect::whole(width, height)) == 1
    }
}

/// A sample that keeps its shard open.
#[derive(Clone)]
pub(crate) struct Held {
    pub(super) shard: Arc<Shard>,
    /// Shard, and number in the shard.
    pub(super) place: (u32, u32),
    pub(super) reader: Arc<Reader>,
}

impl Held {
    /// `place`: the shard, and the number in the shard.
    pub(crate) fn new(shard: Arc<Shard>, place: (u32, u32), reader: Arc<Reader>) -> Self {
        Self { shard, place, reader }
    }

    pub(crate) fn view(&self) -> View<'_> {
        let Self { shard, place, reader } = self;
        View { shard, entry: &shard.samples[place.1 as usize], reader, place: *place }
    }
}

/// A sample of a shard that is open. Every method but those for messages fails if the sample is broken.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(super) shard: &'a Shard,
    pub(super) entry: &'a Entry,
    pub(super) reader: &'a Reader,
    /// Shard, and number in the shard.
    pub(super) place: (u32, u32),
}

impl<'a> View<'a> {
    /// The shard, for messages: its path, or `embedded:NAME`.
    pub(crate) fn shard(self) -> String {
        self.shard.location.to_string()
    }

    pub(crate) fn key(self) -> Cow<'a, str> {
        let key = &self.entry.key;
        std::str::from_utf8(key).map_or_else(|_| Cow::Owned(printable(key)), Cow::Borrowed)
    }

    pub(crate) fn name(self) -> String {
        format!("{}:{}", self.shard(), self.key())
    }

    pub(crate) fn image(self) -> Result<Cow<'a, [u8]>, Broken> {
        self.whole()?.part(self.entry.image)?.ok_or_else(|| self.no_image())
    }

    /// The encoded image if it is a whole JPEG, whose pixels are those of [`Self::decoded`] for other programs too.
    pub(crate) fn jpeg(self) -> Result<Option<Cow<'a, [u8]>>, Broken> {
        let is_plain = |bytes: &[u8]| bytes.starts_with(b"\xFF\xD8\xFF") && bytes.ends_with(b"\xFF\xD9");
        match self.reader.decoding.orientation {
            ExifOrientation::Ignore => Ok(Some(self.image()?).filter(|bytes| is_plain(bytes))),
            // Other readers may not turn it.
            ExifOrientation::Apply => Ok(None),
        }
    }

    pub(crate) fn cls(self) -> Result<Option<Cow<'a, [u8]>>, Broken> {
        self.whole()?.part(self.entry.cls)
    }

    pub(crate) fn caption(self) -> Result<Caption, Broken> {
        let shard = self.whole()?;
        self.reader.keys.read_all(&shard.txts(self.entry)?, shard.part(self.entry.json)?.as_deref(), shard.naming)
    }

    /// Calls `use_it` with the tokens that a pack stores next to the captions, if it does.
    pub(crate) fn with_tokens<T>(self, use_it: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Broken> {
        self.whole()?.with_part(self.entry.tokens, use_it)
    }

    /// One of the captions, varied ([`Caption::vary`]), into `out`.
    pub(crate) fn vary_caption(
        self,
        variation: &CaptionVariation,
        random: &mut Random,
        out: &mut String,
    ) -> Result<(), Broken> {
        let (shard, keys, entry) = (self.whole()?, &self.reader.keys, self.entry);
        // The usual case, without an allocation. If nothing can be drawn, the other way says why.
        if let (Some(txt), [], true) = (entry.txt, &*entry.more_txt, keys.takes_txt()) {
            let start = random.clone();
            let drawn = shard.with_part(Some(txt), |bytes| keys.draw(bytes, shard.naming, random, out))?;
            let has_tags = entry.json.is_some() && variation.max_tags > 0;
            if drawn == Some(true) && !(has_tags && variation.has_tags(random)) {
                return Ok(());
            }
            *random = start;
        }
        *out = self.caption()?.vary(variation, random);
        Ok(())
    }

    /// The `.txt`, `.json` and `.cls` members, as they are; several captions as lines. A caption in a table is a line,
    /// even if it has several, so that a reader of lines finds one caption; and the record of a row is UTF-8,
    /// even if the row is not, so that other programs read it.
    pub(crate) fn texts(self) -> Result<[Option<Cow<'a, [u8]>>; 3], Broken> {
        let shard = self.whole()?;
        let in_one_line = |mut text: Cow<'a, [u8]>| {
            if text.contains(&b'\n') || text.contains(&b'\r') {
                let breaks = text.to_mut().iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r'));
                breaks.for_each(|byte| *byte = b' ');
            }
            text
        };
        let (mut texts, mut json) = (shard.txts(self.entry)?, shard.part(self.entry.json)?);
        if shard.naming == Naming::Columns {
            texts = texts.into_iter().map(in_one_line).collect();
            json = json.map(|json| match std::str::from_utf8(&json) {
                Ok(_) => json,
                Err(_) => String::from_utf8_lossy(&json).into_owned().into_bytes().into(),
            });
        }
        let txt = match texts.len() {
            0 | 1 => texts.pop(),
            _ => Some(texts.join(&b'\n').into()),
        };
        Ok([txt, json, shard.part(self.entry.cls)?])
    }

    /// The key as it is in the archive.
    pub(crate) fn raw_key(self) -> &'a [u8] {
        &self.entry.key
    }

    pub(crate) fn label(self) -> Result<Label, Broken> {
        let captions = || self.caption().map(|caption| Label::Captions(caption.texts));
        let number = || self.cls()?.map(|bytes| label::class(&bytes)).transpose();
        match self.reader.keys.class_numbers {
            ClassNumbers::Ignore => captions(),
            ClassNumbers::Unused => Ok(Label::Captions(Vec::new())),
            ClassNumbers::Prefer => number()?.map_or_else(captions, Ok),
            ClassNumbers::Accept => captions().or_else(|why| number()?.ok_or(why)),
            ClassNumbers::Require => number()?.ok_or_else(|| Broken {
                kind: Kind::MissingCaption,
                detail: format!("looked for {}", self.shard.naming.cls()),
            }),
        }
    }

    /// The whole image, at its full size.
    pub(crate) fn decoded(self) -> Result<Arc<RgbImage>, Broken> {
        let cache = &self.reader.cache;
        if let Some(image) = cache.get(self.place) {
            return Ok(image);
        }
        let decoding = Decoding { scale_to: None, ..self.reader.decoding };
        let image = Arc::new(self.read_image(|bytes| image::decode(bytes, decoding))?);
        if self.reader.keeps(self.reader.decoding, image.width(), image.height()) {
            cache.put(self.place, &image);
        }
        Ok(image)
    }

    /// The whole image, for `use_it`; a JPEG may be scaled down while it is decoded, if its short side will be resized
    /// to the length `side` ([`Decoding::scale_to`]).
    pub(crate) fn with_scaled<T>(
        self,
        side: Option<u32>,
        use_it: impl FnOnce(Part) -> Result<T, ImageError>,
    ) -> Result<T, Broken> {
        let decoding = Decoding { scale_to: side, ..self.reader.decoding };
        self.read_image(|bytes| image::decode_part(bytes, decoding, Vec::new(), CropRect::whole).and_then(use_it))
    }

    /// Calls `use_it` with the image, or the part of it that `choose` picks, given its width and height. `memory` is
    /// for its pixels, and is kept for the next sample. `opened` is called once the encoded image is in memory.
    pub(crate) fn with_part<T>(
        self,
        memory: &mut Vec<u8>,
        opened: impl FnOnce(),
        mut choose: impl FnMut(u32, u32) -> CropRect,
        use_it: impl FnOnce(&Part) -> T,
    ) -> Result<T, Broken> {
        let Reader { decoding, cache, .. } = self.reader;
        if let Some(image) = cache.get(self.place) {
            opened();
            return Ok(use_it(&Part::of(&image, choose(image.width(), image.height()))));
        }
        self.read_image(|bytes| {
            opened();
            let scale_to = decoding.scale_to.filter(|_| image::is_jpeg(bytes));
            let (decoding, mut kept) = (Decoding { scale_to, ..*decoding }, None);
            let chosen = |width, height| {
                let crop = choose(width, height);
                // An image is cached as a whole.
                kept = self.reader.keeps(decoding, width, height).then_some(crop);
                if kept.is_some() { CropRect::whole(width, height) } else { crop }
            };
            let part = image::decode_part(bytes, decoding, std::mem::take(memory), chosen)?;
            if let Some(crop) = kept {
                let image = Arc::new(part.into_image()?);
                cache.put(self.place, &image);
                return Ok(use_it(&Part::of(&image, crop)));
            }
            let used = use_it(&part);
            if let Cow::Owned(pixels) = part.pixels
                && pixels.capacity() <= MAX_KEPT
            {
                *memory = pixels;
            }
            Ok(used)
        })
    }

    /// Calls `decode` with the encoded image.
    fn read_image<T>(self, decode: impl FnOnce(&[u8]) -> Result<T, ImageError>) -> Result<T, Broken> {
        let decoded = self.whole()?.with_part(self.entry.image, decode)?.ok_or_else(|| self.no_image())?;
        decoded.map_err(|why| Broken { kind: Kind::BadImage, detail: why.to_string() })
    }

    /// Its shard, if the index shows no flaw of the sample.
    fn whole(self) -> Result<&'a Shard, Broken> {
        match &self.entry.flaw {
            Some(flaw) => Err(flaw.as_ref().clone()),
            None => Ok(self.shard),
        }
    }

    fn no_image(self) -> Broken {
        Broken { kind: Kind::MissingImage, detail: format!("looked for {}", self.shard.naming.images()) }
    }
}
