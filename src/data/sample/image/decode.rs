//! From encoded bytes to RGB8.

use std::borrow::Cow;
use std::io::Cursor;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, Rgba, RgbaImage};
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use super::format::{Format, format};
#[cfg(feature = "turbo")]
use super::turbo;
use super::{MAX_PIXELS, Part, jpeg, png, raw};
use crate::data::sample::augment::CropRect;

/// What is done with a photo that has an EXIF orientation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum ExifOrientation {
    /// The pixels as they are stored: what OpenCLIP trains on (Pillow's `Image.open(..).convert("RGB")`)
    #[default]
    Ignore,
    /// Rotated upright, as viewers show it
    Apply,
}

/// What decodes JPEG. Pixels differ by up to 5 of 255, so a run keeps its decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum JpegDecoder {
    /// libjpeg-turbo: only the part of a picture that a crop needs
    Turbo,
    /// zune-jpeg, which is written in Rust: the whole picture
    Rust,
}

impl JpegDecoder {
    /// Whether this build has it: [`Self::Turbo`] is behind the Cargo feature `turbo`.
    pub const fn is_built_in(self) -> bool {
        matches!(self, Self::Rust) || cfg!(feature = "turbo")
    }
}

impl Default for JpegDecoder {
    fn default() -> Self {
        if Self::Turbo.is_built_in() { Self::Turbo } else { Self::Rust }
    }
}

/// How images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// What is done with EXIF orientations.
    pub orientation: ExifOrientation,
    /// What decodes JPEG.
    pub jpeg: JpegDecoder,
    /// The side, in pixels, of what images are resized to, if libjpeg-turbo may scale large JPEGs down while it decodes
    /// them (DCT scaling, Pillow's `draft`): by 2, 4 or 8, as long as the crop keeps twice this side. `None` decodes
    /// every pixel.
    pub scale_to: Option<u32>,
}

/// A scaled crop is at least this many times as long as the side that it is resized to. Photographs differ from those
/// of full decoding by 52 dB in the mean (another decoder by 54 dB), and by 44 dB if they may be scaled right to the
/// side.
const MARGIN: u64 = 2;

impl Decoding {
    /// By how much a JPEG is scaled down if `crop` is what is needed of it: 1, 2, 4 or 8. A larger crop is
    /// scaled down at least as much.
    pub(crate) fn scale(self, crop: CropRect) -> u32 {
        let Some(side) = self.scale_to else { return 1 };
        let (short, least) = (u64::from(crop.width.min(crop.height)), MARGIN * u64::from(side.max(1)));
        [8, 4, 2].into_iter().find(|scale| short >= u64::from(*scale) * least).unwrap_or(1)
    }
}

/// Decodes JPEG, PNG, WebP, GIF (the first frame), BMP or TIFF (the first page), detected by content, to RGB8: grey
/// fills all three channels, 16 bits are rounded to 8, and an alpha channel is left out, as by Pillow's
/// `convert("RGB")`, through which OpenCLIP reads images: transparent pixels have the colour that is stored for them.
/// The orientation of a TIFF is always applied, as in Pillow. Raw pixels of a packed data set are recognised too.
///
/// # Errors
/// What is wrong with the image, or what the bytes are if they are not an image in one of these formats. A truncated
/// JPEG is an error, although most of it could be shown.
pub fn decode(bytes: &[u8], decoding: Decoding) -> Result<RgbImage, ImageError> {
    decode_part(bytes, decoding, Vec::new(), CropRect::whole)?.into_image()
}

/// As [`decode`], but of a JPEG only the part that `choose` picks, given the image's width and height. The pixels are
/// the same, at 1/2, 1/4 or 1/8 with [`Decoding::scale_to`]. Damage elsewhere goes unnoticed, except that a truncated
/// JPEG is an error all the same. `memory` is used for the pixels, if it is needed; its content does not matter.
///
/// # Errors
/// As [`decode`].
pub fn decode_part(
    bytes: &[u8],
    decoding: Decoding,
    memory: Vec<u8>,
    choose: impl FnMut(u32, u32) -> CropRect,
) -> Result<Part<'_>, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let image = match format(bytes) {
        Format::Read(ImageFormat::Jpeg) => return read_jpeg(bytes, decoding, memory, choose),
        Format::Read(ImageFormat::Png) => {
            let whole: Cow<[u8]> = png::with_end(bytes);
            read(&whole, ImageFormat::Png, decoding.orientation)?
        }
        Format::Raw => return raw::decode(bytes, choose),
        Format::Read(format) => read(bytes, format, decoding.orientation)?,
        Format::Named(name) => return Err(ImageError::OtherKind(name)),
        Format::Unknown => match jpeg::start(bytes) {
            Some(start) => return read_jpeg(&bytes[start..], decoding, memory, choose),
            None => {
                let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
                return Err(ImageError::Unknown(first.join(" ")));
            }
        },
    };
    Ok(part_of(image, choose))
}

/// Whether these bytes are read as a JPEG.
pub(crate) fn is_jpeg(bytes: &[u8]) -> bool {
    match format(bytes) {
        Format::Read(ImageFormat::Jpeg) => true,
        Format::Unknown => jpeg::start(bytes).is_some(),
        _ => false,
    }
}

/// A part of an image that had to be decoded as a whole.
fn part_of(image: RgbImage, mut choose: impl FnMut(u32, u32) -> CropRect) -> Part<'static> {
    let (width, crop) = (image.width(), choose(image.width(), image.height()));
    Part { pixels: Cow::Owned(image.into_raw()), width, scale: 1, crop }
}

fn read_jpeg(
    bytes: &[u8],
    decoding: Decoding,
    memory: Vec<u8>,
    mut choose: impl FnMut(u32, u32) -> CropRect,
) -> Result<Part<'static>, ImageError> {
    let bytes = jpeg::picture(bytes)?;
    #[cfg(feature = "turbo")]
    if decoding.jpeg == JpegDecoder::Turbo {
        use ::image::metadata::Orientation;

        let turned = match decoding.orientation {
            // EXIF data that cannot be read is ignored.
            ExifOrientation::Apply => {
                let decoder = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg).into_decoder();
                decoder.and_then(|mut decoder| decoder.orientation()).unwrap_or(Orientation::NoTransforms)
            }
            ExifOrientation::Ignore => Orientation::NoTransforms,
        };
        let part = match turned {
            Orientation::NoTransforms => turbo::decode(bytes, memory, |width, height| {
                let crop = choose(width, height);
                (crop, decoding.scale(crop))
            })?,
            // Turned as a whole, and not scaled: the turned edges of a scaled image lie between pixels.
            turned => match turbo::decode(bytes, memory, |width, height| (CropRect::whole(width, height), 1))? {
                Some(whole) => {
                    let mut image = DynamicImage::from(whole.into_image()?);
                    image.apply_orientation(turned);
                    return Ok(part_of(image.into_rgb8(), choose));
                }
                None => None,
            },
        };
        if let Some(part) = part {
            return Ok(part);
        }
    }
    Ok(part_of(read(bytes, ImageFormat::Jpeg, decoding.orientation)?, choose))
}

fn read(bytes: &[u8], format: ImageFormat, orientation: ExifOrientation) -> Result<RgbImage, ImageError> {
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder = reader.into_decoder().map_err(|error| ImageError::decoder(error, format))?;
    let (width, height) = decoder.dimensions();
    match u64::from(width) * u64::from(height) {
        0 => return Err(ImageError::NoPixels(width, height)),
        pixels if pixels > MAX_PIXELS => return Err(ImageError::TooLarge(width, height)),
        _ => {}
    }
    // In a TIFF, the tag is part of how rows and columns are stored.
    let turned = match orientation == ExifOrientation::Apply || format == ImageFormat::Tiff {
        // EXIF data that cannot be read is ignored.
        true => decoder.orientation().ok(),
        false => None,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| ImageError::decoder(error, format))?;
    if let Some(turned) = turned {
        image.apply_orientation(turned);
    }
    if let (ImageFormat::Gif, DynamicImage::ImageRgba8(image)) = (format, &mut image) {
        cover(image);
    }
    Ok(image.into_rgb8())
}

/// Gives pixels that the first frame of a GIF does not cover the colour of its transparent ones, as Pillow does.
fn cover(image: &mut RgbaImage) {
    const UNCOVERED: Rgba<u8> = Rgba([0; 4]);
    let stored = image.pixels().find(|pixel| pixel.0[3] == 0 && **pixel != UNCOVERED).copied();
    if let Some(stored) = stored {
        image.pixels_mut().filter(|pixel| **pixel == UNCOVERED).for_each(|pixel| *pixel = stored);
    }
}

#[cfg(test)]
mod tests {
    use ::image::{LumaA, Rgb};

    use super::*;
    use crate::data::testing::{jpeg, noise, png};

    /// With the default orientation.
    fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
        super::decode(bytes, Decoding::default())
    }

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_colour_type_becomes_rgb8() {
        let image = noise(9, 7, 1);
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            assert_eq!(decode(&encode(image.clone(), format)).unwrap(), image, "{format:?}");
        }
        let grey = DynamicImage::from(image.clone()).into_luma8();
        let spread = RgbImage::from_fn(9, 7, |x, y| Rgb([grey.get_pixel(x, y)[0]; 3]));
        assert_eq!(decode(&encode(grey, ImageFormat::Png)).unwrap(), spread);
        let deep = DynamicImage::from(image.clone()).into_rgb16();
        assert_eq!(decode(&encode(deep, ImageFormat::Png)).unwrap(), image);
        for alpha in [255, 128, 0] {
            let rgba = RgbaImage::from_pixel(2, 2, Rgba([10, 20, 30, alpha]));
            assert_eq!(decode(&encode(rgba, ImageFormat::Png)).unwrap().get_pixel(1, 1), &Rgb([10, 20, 30]));
            let grey = ::image::GrayAlphaImage::from_pixel(2, 2, LumaA([40, alpha]));
            assert_eq!(decode(&encode(grey, ImageFormat::Png)).unwrap().get_pixel(0, 0), &Rgb([40; 3]));
        }
    }

    #[test]
    fn broken_images_are_refused_with_a_reason() {
        let webp = encode(noise(64, 48, 2), ImageFormat::WebP);
        for (format, bytes) in [("JPEG", jpeg(64, 48, 2)), ("PNG", png(64, 48, 2)), ("WebP", webp)] {
            assert!(decode(&bytes).is_ok());
            for length in [0, 1, 10, bytes.len() / 4, bytes.len() / 2, bytes.len() - 30] {
                assert!(decode(&bytes[..length]).is_err(), "{format} cut to {length} of {}", bytes.len());
            }
        }
        assert!(decode(b"GIF89a\x01\0\x01\0\0\0\0;").unwrap_err().to_string().contains("GIF"));
        assert!(decode(b"neither").is_err());
        for format in [ImageFormat::Tiff, ImageFormat::Bmp] {
            let bytes = encode(noise(64, 48, 2), format);
            let error = decode(&bytes[..bytes.len() / 2]).unwrap_err().to_string();
            assert!(error.contains("ends before the picture does"), "{format:?}: {error}");
        }
    }

    /// A few bytes with a PNG header of 60000 x 60000 pixels.
    #[test]
    fn bombs_are_not_decoded() {
        let mut bomb = png(1, 1, 0);
        bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let crc = bomb[12..29].iter().fold(!0_u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        });
        bomb[29..33].copy_from_slice(&(!crc).to_be_bytes());
        assert!(matches!(decode(&bomb), Err(ImageError::TooLarge(60000, 60000))));
    }
}
