//! A contact sheet: images in rows, with a line of text and a caption below each.

use std::io::Cursor;
use std::path::Path;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{ImageError, ImageFormat, RgbImage, imageops};

use super::draw::text::{self, LINE, WIDTH};
use super::draw::{BLACK, DARK, EMPTY, PAGE, fill, fitted, note};
use crate::data::error::{DataError, Result};
use crate::data::sample::image::MAX_PIXELS;

/// Width in pixels of a sheet whose number of columns is not given.
const USUAL_WIDTH: u32 = 1600;
/// Side of an image's square.
const SIDE: u32 = 224;
/// Between an image and its text.
const GAP: u32 = 6;
/// Around each image.
const MARGIN: u32 = 20;
/// Maximum number of lines of a caption.
const CAPTION_LINES: u32 = 2;

/// Quality of a sheet as JPEG: high, because it has letters in it.
const JPEG_QUALITY: u8 = 92;

/// The formats of a sheet's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SheetFormat {
    /// `.png`.
    Png,
    /// `.jpg` or `.jpeg`.
    Jpeg,
}

impl SheetFormat {
    /// The format of a file by its name.
    ///
    /// # Errors
    /// Another ending.
    pub fn from_path(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => Ok(Self::Png),
            Some("jpg" | "jpeg") => Ok(Self::Jpeg),
            _ => {
                let problem = "its name must end in .png, .jpg or .jpeg".to_owned();
                Err(DataError::Config { field: "picture", value: path.display().to_string(), problem })
            }
        }
    }

    /// The bytes of a file with `sheet`.
    ///
    /// # Errors
    /// A sheet with more pixels along a side than the format allows.
    pub fn encode(self, sheet: &RgbImage) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Cursor::new(Vec::new());
        match self {
            Self::Png => sheet.write_to(&mut bytes, ImageFormat::Png)?,
            Self::Jpeg => sheet.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))?,
        }
        Ok(bytes.into_inner())
    }
}

/// Images under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    /// What was searched for.
    pub heading: String,
    /// In order, row by row.
    pub images: Vec<Thumbnail>,
}

/// An image on the sheet.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// As large as it is shown, or why there is none.
    image: Result<RgbImage, String>,
    label: String,
    caption: String,
}

impl Thumbnail {
    /// An image, or why there is none, with a short label and a caption. The image is scaled down at once.
    pub fn new(image: Result<&RgbImage, String>, label: String, caption: String) -> Self {
        Self { image: image.map(|image| fitted(image, SIDE)), label, caption }
    }
}

/// Draws `sections` one below the other, in rows of `columns` images, or of as many as make a sheet about 1,600 pixels
/// wide.
///
/// # Errors
/// A sheet with more pixels than an image may have.
pub fn contact_sheet(sections: &[Section], columns: Option<usize>) -> Result<RgbImage> {
    let count: usize = sections.iter().map(|section| section.images.len()).sum();
    let most = sections.iter().map(|section| section.images.len()).max().unwrap_or(0).max(1);
    let usual = (USUAL_WIDTH / (SIDE + MARGIN)) as usize;
    let columns = columns.unwrap_or(usual).clamp(1, most) as u64;
    let (row, heading) = (u64::from(SIDE + GAP + (1 + CAPTION_LINES) * LINE + MARGIN), u64::from(LINE + MARGIN));
    let width = columns * u64::from(SIDE + MARGIN) + u64::from(MARGIN);
    let of = |section: &Section| heading + (section.images.len() as u64).div_ceil(columns) * row;
    let height = sections.iter().map(of).sum::<u64>() + u64::from(MARGIN);
    if width.saturating_mul(height) > MAX_PIXELS {
        let problem = format!("the sheet would have more than {MAX_PIXELS} pixels; show fewer images");
        return Err(DataError::Config { field: "top", value: count.to_string(), problem });
    }
    let mut picture = RgbImage::from_pixel(width as u32, height as u32, PAGE);
    let mut top = MARGIN;
    for section in sections {
        let line = text::wrap(&section.heading, ((width as u32 - 2 * MARGIN) / WIDTH) as usize, 1);
        line.iter().for_each(|line| text::draw(&mut picture, (MARGIN, top), line, BLACK));
        top += LINE + MARGIN;
        for images in section.images.chunks(columns as usize) {
            for (column, image) in (0..).zip(images) {
                draw(&mut picture, (MARGIN + column * (SIDE + MARGIN), top), image);
            }
            top += row as u32;
        }
    }
    Ok(picture)
}

fn draw(picture: &mut RgbImage, (left, top): (u32, u32), of: &Thumbnail) {
    fill(picture, (left, top), (SIDE, SIDE), EMPTY);
    match &of.image {
        Ok(image) => {
            let at = (left + (SIDE - image.width()) / 2, top + (SIDE - image.height()) / 2);
            imageops::replace(picture, image, at.0.into(), at.1.into());
        }
        Err(problem) => note(picture, (left, top), SIDE, problem),
    }
    let (columns, top) = ((SIDE / WIDTH) as usize, top + SIDE + GAP);
    text::draw(picture, (left, top), &text::end(&of.label, columns), DARK);
    for (line, text) in (1..).zip(text::wrap(&of.caption, columns, CAPTION_LINES as usize)) {
        text::draw(picture, (left, top + line * LINE), &text, BLACK);
    }
}

#[cfg(test)]
mod tests {
    use ::image::Rgb;

    use super::*;

    #[test]
    fn images_are_in_rows_under_their_headings() {
        let colour = |red: u8| RgbImage::from_pixel(10, 5, Rgb([red, 9, 9]));
        let shown = |red| Thumbnail::new(Ok(&colour(red)), "0.5".to_owned(), "a".to_owned());
        let broken = Thumbnail::new(Err("no image".to_owned()), String::new(), String::new());
        let first = Section { heading: "one".to_owned(), images: vec![shown(40), shown(80), shown(120)] };
        let second = Section { heading: "two".to_owned(), images: vec![broken, shown(160)] };
        let picture = contact_sheet(&[first.clone(), second], Some(2)).unwrap();
        let row = SIDE + GAP + 3 * LINE + MARGIN;
        assert_eq!(picture.dimensions(), (2 * (SIDE + MARGIN) + MARGIN, MARGIN + 2 * (LINE + MARGIN) + 3 * row));
        let middle =
            |column: u32, top: u32| picture.get_pixel(MARGIN + column * (SIDE + MARGIN) + SIDE / 2, top + SIDE / 2)[0];
        let top = 2 * MARGIN + LINE;
        assert_eq!([middle(0, top), middle(1, top), middle(0, top + row)], [40, 80, 120]);
        // Wider than high: bars above and below.
        assert_eq!(*picture.get_pixel(MARGIN + 9, top + 9), EMPTY);
        let top = top + 2 * row + LINE + MARGIN;
        assert_eq!(middle(1, top), 160);
        let mut words = picture.rows().skip(top as usize).take(LINE as usize).flatten();
        assert!(words.any(|pixel| pixel[0] > pixel[1].saturating_add(99)));
        let many = Section { images: vec![first.images[0].clone(); 1200], ..first };
        assert!(contact_sheet(std::slice::from_ref(&many), None).is_ok_and(|sheet| sheet.width() < USUAL_WIDTH + SIDE));
        assert!(contact_sheet(&vec![many; 2], Some(1)).is_err());
    }
}
