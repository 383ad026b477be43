//! Where everything is on the sheet, and how it is drawn.
//!
//! A tile has two squares of the same size, on the left the original and on the right the crop, and lines of text
//! below them.

use ::image::{Rgb, RgbImage, imageops};

use super::Shown;
use crate::data::error::{DataError, Result};
use crate::data::loader::LoaderConfig;
use crate::data::sample::CropRect;
use crate::data::sample::image::MAX_PIXELS;
use crate::data::tools::draw::text::{self, LINE, WIDTH};
use crate::data::tools::draw::{BLACK, DARK, EMPTY, PAGE, RED, fill, fitted, frame, note, scaled};

/// Width of the sheet in pixels, if the number of columns is not given.
const USUAL_WIDTH: u32 = 1600;
/// Smaller squares are enlarged by a whole factor, so that there is room for the caption.
const MIN_SIDE: u32 = 192;
/// Between the squares of a tile, and above the text.
const GAP: u32 = 6;
/// Around each tile.
const MARGIN: u32 = 24;
/// At most, for a caption.
const CAPTION_LINES: usize = 3;
/// Between the number of tokens and the sample's name, in letters.
const SPACE: usize = 2;

const WHITE: Rgb<u8> = Rgb([255; 3]);
/// Stripes of patches that are left out, which a plain grey in a picture does not have.
const MASKED: [Rgb<u8>; 2] = [Rgb([184; 3]), Rgb([200; 3])];
/// Width of these.
const STRIPE: u32 = 4;

/// Sizes in pixels, if they say nothing else.
pub(super) struct Sheet {
    /// In tiles.
    columns: u32,
    rows: u32,
    /// Side of the squares.
    side: u32,
    /// By which the crop is enlarged.
    scale: u32,
    patch: u32,
    /// Patches in a row.
    across: u32,
    /// In tokens.
    context: usize,
}

pub(super) struct Tile<'a> {
    pub(super) shown: &'a Shown,
    /// What [`Sheet::fitted`] made of it, or why it cannot be decoded.
    pub(super) original: std::result::Result<&'a RgbImage, &'a str>,
    /// `[kept, patch, patch, 3]`.
    pub(super) patches: &'a [u8],
    pub(super) ids_keep: &'a [u32],
}

impl Sheet {
    /// For `count` samples that are loaded by `config`, which is valid.
    ///
    /// # Errors
    /// A sheet with more pixels than an image may have.
    pub(super) fn new(config: &LoaderConfig, count: usize, columns: Option<usize>) -> Result<Self> {
        let too_large = || {
            let problem = format!("the sheet would have more than {MAX_PIXELS} pixels; show fewer samples");
            DataError::Config { field: "count", value: count.to_string(), problem }
        };
        let number = |value: usize| u32::try_from(value).map_err(|_| too_large());
        let (size, patch) = (number(config.image_size)?, number(config.patch_size)?);
        let scale = MIN_SIDE.div_ceil(size);
        let side =
            scale.checked_mul(size).filter(|&side| u64::from(side).pow(2) <= MAX_PIXELS).ok_or_else(too_large)?;
        let mut sheet = Self { columns: 1, rows: 1, side, scale, patch, across: size / patch, context: config.context };
        let pitch = sheet.tile().0 + MARGIN;
        sheet.columns =
            number(columns.unwrap_or((USUAL_WIDTH + pitch / 2) as usize / pitch as usize).clamp(1, count.max(1)))?;
        sheet.rows = number(count)?.div_ceil(sheet.columns);
        let (width, height) = sheet.size();
        if width.saturating_mul(height) > MAX_PIXELS { Err(too_large()) } else { Ok(sheet) }
    }

    /// Width and height of a tile.
    fn tile(&self) -> (u32, u32) {
        (2 * self.side + GAP, self.side + GAP + (CAPTION_LINES as u32 + 1) * LINE)
    }

    fn size(&self) -> (u64, u64) {
        let all = |count: u32, one: u32| u64::from(count) * u64::from(one + MARGIN) + u64::from(MARGIN);
        (all(self.columns, self.tile().0), all(self.rows, self.tile().1))
    }

    pub(super) fn blank(&self) -> RgbImage {
        let (width, height) = self.size();
        RgbImage::from_pixel(width as u32, height as u32, PAGE)
    }

    /// `image` as large as fits into a square.
    pub(super) fn fitted(&self, image: &RgbImage) -> RgbImage {
        fitted(image, self.side)
    }

    /// Draws the tile with this number, counted row by row.
    pub(super) fn draw(&self, picture: &mut RgbImage, number: usize, tile: &Tile<'_>) {
        let (width, height) = self.tile();
        let (column, row) = (number as u32 % self.columns, number as u32 / self.columns);
        let (left, top) = (MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN));
        self.original(picture, (left, top), tile);
        self.crop(picture, (left + self.side + GAP, top), tile);

        let Shown { shard, key, origin, tokens, cut } = tile.shown;
        let (columns, top) = ((width / WIDTH) as usize, top + self.side + GAP);
        let tokens = if *tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") };
        let (tokens, colour) = match cut {
            true => (format!("{tokens}, cut to {}", self.context), RED),
            false => (tokens, DARK),
        };
        text::draw(picture, (left, top), &tokens, colour);
        let name = text::end(&format!("{shard}:{key}"), columns.saturating_sub(tokens.len() + SPACE));
        text::draw(picture, (left + width - name.chars().count() as u32 * WIDTH, top), &name, DARK);
        for (line, text) in (1..).zip(text::wrap(&origin.caption, columns, CAPTION_LINES)) {
            text::draw(picture, (left, top + line * LINE), &text, BLACK);
        }
    }

    /// In the middle of its square, with the crop framed.
    fn original(&self, picture: &mut RgbImage, (left, top): (u32, u32), tile: &Tile<'_>) {
        fill(picture, (left, top), (self.side, self.side), EMPTY);
        match tile.original {
            Ok(image) => {
                let (left, top) = (left + (self.side - image.width()) / 2, top + (self.side - image.height()) / 2);
                imageops::replace(picture, image, left.into(), top.into());
                let Shown { origin, .. } = tile.shown;
                let CropRect { left: x, top: y, width, height } = origin.crop;
                let [x0, x1] = [x, x + width].map(|x| left + scaled(x, origin.width, image.width()));
                let [y0, y1] = [y, y + height].map(|y| top + scaled(y, origin.height, image.height()));
                // Red on the edge and white inside of it are seen on any picture.
                for (inset, colour) in [(0, RED), (1, RED), (2, WHITE)] {
                    frame(
                        picture,
                        (x0 + inset, y0 + inset),
                        (x1.saturating_sub(inset), y1.saturating_sub(inset)),
                        colour,
                    );
                }
            }
            Err(problem) => {
                note(picture, (left, top), self.side, &format!("outside of the crop: {problem}"));
            }
        }
    }

    /// The visible patches, and stripes where the others are.
    fn crop(&self, picture: &mut RgbImage, (left, top): (u32, u32), tile: &Tile<'_>) {
        for (x, y) in (0..self.side).flat_map(|y| (0..self.side).map(move |x| (x, y))) {
            picture.put_pixel(left + x, top + y, MASKED[((x + y) / STRIPE % 2) as usize]);
        }
        let bytes = (self.patch * self.patch * 3) as usize;
        for (&id, patch) in tile.ids_keep.iter().zip(tile.patches.chunks_exact(bytes)) {
            let (x0, y0) = (id % self.across * self.patch, id / self.across * self.patch);
            for (at, &pixel) in (0..).zip(patch.as_chunks::<3>().0) {
                let (x, y) = (x0 + at % self.patch, y0 + at / self.patch);
                fill(picture, (left + x * self.scale, top + y * self.scale), (self.scale, self.scale), Rgb(pixel));
            }
        }
    }
}
