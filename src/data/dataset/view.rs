//! One sample: where its parts are, and how they are read.

use std::borrow::Cow;
use std::sync::Arc;

use ::image::RgbImage;

use super::cache::Cache;
use crate::data::broken::{Broken, Kind};
use crate::data::error::Result;
use crate::data::format::{Entry, Naming, Shard, printable};
use crate::data::sample::CropRect;
use crate::data::sample::image::{self, Decoding, ExifOrientation, Part};
use crate::data::sample::{Caption, CaptionKeys, ClassNumbers, Label, label};

/// How samples are read: the same for all of a data set.
pub(crate) struct Reader {
    pub(super) keys: CaptionKeys,
    pub(super) decoding: Decoding,
    pub(super) cache: Arc<Cache>,
    /// In the data set.
    pub(super) samples: usize,
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

    /// The tokens that a pack stores beside the captions.
    pub(crate) fn tokens(self) -> Result<Option<Cow<'a, [u8]>>, Broken> {
        self.whole()?.part(self.entry.tokens)
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

    /// The whole image.
    pub(crate) fn decoded(self) -> Result<Arc<RgbImage>, Broken> {
        self.decoded_part(CropRect::whole).map(|(image, _)| image)
    }

    /// The image, or the part of it that `choose` picks, given its width and height; and where that part is in what is
    /// returned.
    pub(crate) fn decoded_part(
        self,
        mut choose: impl FnMut(u32, u32) -> CropRect,
    ) -> Result<(Arc<RgbImage>, CropRect), Broken> {
        let Reader { decoding, cache, samples, .. } = self.reader;
        if let Some(image) = cache.get(self.place) {
            let crop = choose(image.width(), image.height());
            return Ok((image, crop));
        }
        let mut whole = None;
        let chosen = |width, height| {
            let crop = choose(width, height);
            // An image is cached as a whole.
            whole = cache.fits(width as usize * height as usize * 3, *samples).then_some(crop);
            if whole.is_some() { CropRect::whole(width, height) } else { crop }
        };
        let decode = |bytes: &[u8]| image::decode_part(bytes, *decoding, chosen);
        let decoded = self.whole()?.with_part(self.entry.image, decode)?.ok_or_else(|| self.no_image())?;
        let Part { image, crop } = decoded.map_err(|why| Broken { kind: Kind::BadImage, detail: why.to_string() })?;
        let image = Arc::new(image);
        if whole.is_some() {
            cache.put(self.place, &image);
        }
        Ok((image, whole.unwrap_or(crop)))
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
