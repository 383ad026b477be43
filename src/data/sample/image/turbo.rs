//! JPEG through libjpeg-turbo (as MozJPEG ships it): all of an image, or the part that a crop needs, in full or at 1/2,
//! 1/4 or 1/8 of its size.
//!
//! Blocks left and right of the part are not transformed, rows above it are only read past, and reading stops after
//! its last row. The pixels are those of decoding everything (at that size): neighbours that the upsampling of colours
//! looks at are decoded too.

use std::borrow::Cow;
use std::ffi::{c_int, c_ulong};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    DCTSIZE, J_COLOR_SPACE, JWRN_ADOBE_XFORM, JWRN_BOGUS_ICC, JWRN_EXTRANEOUS_DATA, JWRN_JFIF_MAJOR,
    jpeg_common_struct, jpeg_create_decompress, jpeg_crop_scanline, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_mem_src, jpeg_read_header, jpeg_read_scanlines, jpeg_skip_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};

use super::error::ImageError;
use super::{MAX_PIXELS, Part};
use crate::data::sample::augment::CropRect;

/// Warnings about what does not affect the pixels. All others are about damage, and are errors here.
const HARMLESS: [c_int; 4] =
    [JWRN_ADOBE_XFORM as c_int, JWRN_BOGUS_ICC as c_int, JWRN_EXTRANEOUS_DATA as c_int, JWRN_JFIF_MAJOR as c_int];

/// Rows that are asked for at once; libjpeg-turbo delivers fewer.
const ROWS: usize = 16;

/// Decodes into `pixels` at least the part that `choose` picks, given the image's width and height, scaled down by what
/// it picks: 1, 2, 4 or 8. `None` if the image has colours that libjpeg-turbo does not convert to RGB (CMYK).
///
/// # Errors
/// Damage in what is read, or sizes that are refused.
pub(super) fn decode(
    bytes: &[u8],
    pixels: Vec<u8>,
    choose: impl FnOnce(u32, u32) -> (CropRect, u32),
) -> Result<Option<Part<'static>>, ImageError> {
    // Zeros are what the library expects before `jpeg_create_decompress`.
    let (mut errors, mut info) = (MaybeUninit::<jpeg_error_mgr>::zeroed(), MaybeUninit::zeroed());
    // SAFETY: all fields of both are integers, pointers, optional functions, enums with a variant 0, and arrays of
    // these, for which zeros are valid.
    let (errors, info): (&mut jpeg_error_mgr, &mut jpeg_decompress_struct) =
        unsafe { (errors.assume_init_mut(), info.assume_init_mut()) };
    // SAFETY: it only writes the fields of `errors`.
    unsafe { jpeg_std_error(errors) };
    errors.error_exit = Some(fail);
    errors.emit_message = Some(note);
    info.common.err = errors;
    // `fail` unwinds from the library, which is compiled with tables for that.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `info` has an error manager, and neither moves until it is destroyed.
        unsafe { jpeg_create_decompress(info) };
        read(info, bytes, pixels, choose)
    }));
    // SAFETY: whatever was made of `info`, also nothing, is freed; it is not used again.
    unsafe { jpeg_destroy_decompress(info) };
    decoded.unwrap_or_else(|panic| match panic.downcast::<Damage>() {
        Ok(damage) => Err(ImageError::Jpeg(damage.0)),
        // A panic of `choose`.
        Err(other) => resume_unwind(other),
    })
}

fn read(
    info: &mut jpeg_decompress_struct,
    bytes: &[u8],
    mut pixels: Vec<u8>,
    choose: impl FnOnce(u32, u32) -> (CropRect, u32),
) -> Result<Option<Part<'static>>, ImageError> {
    // SAFETY: `info` was created, and `bytes` outlives its use.
    unsafe {
        jpeg_mem_src(info, bytes.as_ptr(), bytes.len() as c_ulong);
        jpeg_read_header(info, 1);
    }
    let (width, height) = (info.image_width, info.image_height);
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::TooLarge(width, height));
    }
    let known = [J_COLOR_SPACE::JCS_GRAYSCALE, J_COLOR_SPACE::JCS_YCbCr, J_COLOR_SPACE::JCS_RGB];
    if !known.contains(&info.jpeg_color_space) {
        return Ok(None);
    }
    let (asked, scale) = choose(width, height);
    info.out_color_space = J_COLOR_SPACE::JCS_RGB;
    (info.scale_num, info.scale_denom) = (1, scale);
    // In pixels of the output from here on.
    let (width, crop) = (width.div_ceil(scale), asked.scaled(scale));
    let margin = |factor: c_int| factor as u32 * DCTSIZE as u32 / scale;
    // SAFETY: the header was read.
    unsafe { jpeg_start_decompress(info) };
    let (mut left, mut columns, mut top, bottom) = (0, width, 0, crop.top + crop.height);
    if columns > crop.width {
        // The neighbours of the first and the last column lie in the blocks next to theirs.
        let margin = margin(info.max_h_samp_factor);
        left = crop.left.saturating_sub(margin);
        columns = (crop.left + crop.width + margin).min(width) - left;
        // SAFETY: decoding has started and no row was read; the columns lie in the image. The library moves `left` to
        // the start of a block.
        unsafe { jpeg_crop_scanline(info, &mut left, &mut columns) };
    }
    let margin = margin(info.max_v_samp_factor);
    if crop.top > margin {
        // SAFETY: decoding has started, and there are more rows than that.
        top = unsafe { jpeg_skip_scanlines(info, crop.top - margin) };
    }
    let stride = columns as usize * 3;
    let len = stride * (bottom - top) as usize;
    match pixels.capacity() < len {
        // Exactly as long, and nothing is copied.
        true => pixels = vec![0; len],
        false => pixels.resize(len, 0),
    }
    while info.output_scanline < bottom {
        let rest = &mut pixels[(info.output_scanline - top) as usize * stride..];
        let mut rows = [std::ptr::null_mut(); ROWS];
        let mut count = 0;
        for (to, row) in rows.iter_mut().zip(rest.chunks_exact_mut(stride)) {
            *to = row.as_mut_ptr();
            count += 1;
        }
        // SAFETY: each row has room for `columns` pixels of three bytes, which is what `out_color_space` and the crop
        // ask for.
        unsafe { jpeg_read_scanlines(info, rows.as_mut_ptr(), count) };
    }
    let crop = CropRect { left: asked.left - left * scale, top: asked.top - top * scale, ..asked };
    Ok(Some(Part { pixels: Cow::Owned(pixels), width: columns, scale, crop }))
}

/// What the library says is wrong.
struct Damage(String);

/// Called by the library for errors. It must not return.
extern "C-unwind" fn fail(info: &mut jpeg_common_struct) {
    // What `format_message` is in C; the bindings' type says that it only reads the buffer.
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
    let mut text = [0_u8; 80];
    // SAFETY: the library calls `fail` with its error manager, whose function writes at most 80 bytes of text. Both
    // types are functions of two pointers.
    unsafe {
        if let Some(format) = (*info.err).format_message {
            let format: Format = std::mem::transmute(format);
            format(info, text.as_mut_ptr());
        }
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    // Unlike a panic, this prints nothing.
    resume_unwind(Box::new(Damage(String::from_utf8_lossy(&text[..end]).into_owned())));
}

/// Called by the library for warnings (level -1) and traces.
extern "C-unwind" fn note(info: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: the library calls it with its error manager.
    if level < 0 && !HARMLESS.contains(unsafe { &(*info.err).msg_code }) {
        fail(info);
    }
}

#[cfg(test)]
mod tests {
    use ::image::RgbImage;
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

    use super::*;
    use crate::data::sample::image::{self, Decoding};
    use crate::data::testing::noise;
    use crate::random::{Purpose, Random};

    fn encode(image: &RgbImage, sampling: SamplingFactor, progressive: bool, restarts: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 85);
        encoder.set_sampling_factor(sampling);
        encoder.set_progressive(progressive);
        encoder.set_restart_interval(restarts);
        encoder.encode(image, image.width() as u16, image.height() as u16, ColorType::Rgb).unwrap();
        bytes
    }

    /// At a fraction, into memory that held something else.
    fn scaled(bytes: &[u8], scale: u32, crop: impl FnOnce(u32, u32) -> CropRect) -> Part<'static> {
        decode(bytes, vec![0x5A; 1000], |width, height| (crop(width, height), scale)).unwrap().unwrap()
    }

    fn whole(bytes: &[u8]) -> Result<Option<Part<'static>>, ImageError> {
        decode(bytes, Vec::new(), |width, height| (CropRect::whole(width, height), 1))
    }

    fn random_part(width: u32, height: u32, random: &mut Random) -> CropRect {
        let (left, top) = (random.below(width), random.below(height));
        CropRect { left, top, width: 1 + random.below(width - left), height: 1 + random.below(height - top) }
    }

    /// For each kind of file: what is asked for is the same part of the whole image at that scale.
    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        use SamplingFactor::{F_1_1, F_1_2, F_2_1, F_2_2, F_4_1};
        let mut random = Random::new(0, Purpose::Test, 0, 0);
        let mut smaller = 0;
        for (width, height) in [(211, 157), (64, 64), (17, 130)] {
            let image = noise(width, height, 5);
            for (sampling, progressive, restarts) in [F_1_1, F_1_2, F_2_1, F_2_2, F_4_1]
                .into_iter()
                .flat_map(|s| [(s, false, 0), (s, true, 0), (s, false, 3)])
            {
                smaller += parts_of(&encode(&image, sampling, progressive, restarts), [width, height], &mut random);
            }
            let grey = ::image::DynamicImage::from(image).into_luma8();
            let mut bytes = Vec::new();
            Encoder::new(&mut bytes, 85).encode(&grey, width as u16, height as u16, ColorType::Luma).unwrap();
            smaller += parts_of(&bytes, [width, height], &mut random);
        }
        assert!(smaller > 400, "{smaller} parts were decoded alone");
    }

    /// Checks parts of an image at every scale. Returns how many of them were decoded alone.
    fn parts_of(bytes: &[u8], [width, height]: [u32; 2], random: &mut Random) -> usize {
        let mut smaller = 0;
        for scale in [1, 2, 4, 8] {
            let whole = scaled(bytes, scale, CropRect::whole).into_image().unwrap();
            assert_eq!(whole.dimensions(), (width.div_ceil(scale), height.div_ceil(scale)));
            for _ in 0..20 {
                let asked = random_part(width, height, random);
                let part = scaled(bytes, scale, |_, _| asked);
                let crop = part.crop;
                assert_eq!(
                    [crop.left % scale, crop.width, crop.height],
                    [asked.left % scale, asked.width, asked.height]
                );
                let image = part.into_image().unwrap();
                let cut = |image: &RgbImage, at: CropRect| {
                    ::image::imageops::crop_imm(image, at.left, at.top, at.width, at.height).to_image()
                };
                let same = cut(&image, crop.scaled(scale)) == cut(&whole, asked.scaled(scale));
                assert!(same, "{width} x {height} at 1/{scale}, {asked:?}");
                smaller += usize::from(image.width() < whole.width() && image.height() < whole.height());
            }
        }
        smaller
    }

    /// A photograph's spectrum: waves whose amplitude falls with their frequency.
    fn photograph(width: u32, height: u32) -> RgbImage {
        let mut random = Random::new(3, Purpose::Test, 0, 0);
        let waves: Vec<[f32; 5]> = (1..40)
            .map(|number| {
                let [angle, phase] = [0, 1].map(|_| random.uniform() * std::f32::consts::TAU);
                let (frequency, colour) = (0.02 * number as f32, random.uniform() * 3.0);
                [frequency * angle.cos(), frequency * angle.sin(), phase, 40.0 / number as f32, colour]
            })
            .collect();
        RgbImage::from_fn(width, height, |x, y| {
            ::image::Rgb([0, 1, 2].map(|channel| {
                let wave = |[a, b, phase, size, colour]: &[f32; 5]| {
                    let share = if *colour as usize == channel { 1.0 } else { 0.6 };
                    share * size * (a * x as f32 + b * y as f32 + phase).sin()
                };
                (128.0 + waves.iter().map(wave).sum::<f32>()) as u8
            }))
        })
    }

    /// Crops, resized to training's squares, are close to those of full decoding, and lie at the same place to a
    /// fraction of a pixel.
    #[test]
    fn scaled_crops_are_those_of_full_decoding_but_for_noise() {
        let bytes = encode(&photograph(1003, 757), SamplingFactor::F_2_2, false, 0);
        let mut random = Random::new(4, Purpose::Test, 0, 0);
        for (side, expected) in [(400, 1), (150, 2), (64, 4), (30, 8)] {
            for sample in 0..10 {
                let (left, top) = (random.below(200), random.below(100));
                let asked = CropRect { left, top, width: 803 - left / 2, height: 657 - top / 3 };
                let [full, scaled] = [None, Some(side)].map(|scale_to| {
                    let decoding = Decoding { scale_to, ..Decoding::default() };
                    let part = image::decode_part(&bytes, decoding, Vec::new(), |_, _| asked).unwrap();
                    let mut square = image::Square::new(side as usize, side as usize);
                    let (mut out, mut random) = (vec![0; square.bytes()], Random::new(5, Purpose::Crop, 0, sample));
                    square.cropped(&part, &Default::default(), &mut random, &[0], &mut out).unwrap();
                    (out, part.scale)
                });
                assert_eq!([full.1, scaled.1], [1, expected], "{side} pixels");
                let squares = full.0.iter().zip(&scaled.0).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
                let mean = squares.sum::<f64>() / full.0.len() as f64;
                let psnr = 10.0 * (255.0 * 255.0 / mean).log10();
                assert!(psnr > 50.0, "{psnr:.1} dB at {side} pixels and 1/{expected}");
            }
        }
    }

    /// Those that the library does not convert, or that are turned, are decoded in full; so are the smallest.
    #[test]
    fn files_of_every_kind_are_scaled_or_whole() {
        let orientation = image::ExifOrientation::Apply;
        for (name, expected) in [
            ("420", 8),
            ("422-progressive", 8),
            ("grey", 8),
            ("rgb", 8),
            ("turned-1", 8),
            ("turned-6", 1),
            ("cmyk", 1),
            ("ycck", 1),
            ("17x13", 4),
            ("8x40", 4),
            ("1x1", 1),
        ] {
            let file = format!("{}/tests/fixtures/images/jpeg-{name}.jpg", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(file).unwrap();
            let [whole, scaled] = [None, Some(1)].map(|scale_to| {
                let decoding = Decoding { scale_to, orientation, ..Decoding::default() };
                image::decode_part(&bytes, decoding, Vec::new(), CropRect::whole).unwrap()
            });
            let (scale, sizes) = (scaled.scale, [&whole, &scaled].map(|part| (part.crop.width, part.crop.height)));
            assert_eq!((scale, sizes[1]), (expected, sizes[0]), "{name}");
            let (whole, scaled) = (whole.into_image().unwrap(), scaled.into_image().unwrap());
            if scale == 1 {
                assert!(whole == scaled, "{name}");
                continue;
            }
            assert_eq!(scaled.dimensions(), (whole.width().div_ceil(scale), whole.height().div_ceil(scale)), "{name}");
            if whole.width() % scale != 0 {
                // The last pixels are of fewer than the others.
                continue;
            }
            let means = [whole, scaled].map(|image| {
                let sum = |channel| image.pixels().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>();
                [0, 1, 2].map(|channel| sum(channel) / f64::from(image.width() * image.height()))
            });
            let differ = means[0].iter().zip(means[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(differ < 8.0, "{name}: {means:?}");
        }
    }

    #[test]
    fn damage_is_an_error_where_it_is_read() {
        let mut bytes = encode(&noise(160, 160, 6), SamplingFactor::F_2_2, false, 0);
        // An end marker in the middle of the data.
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2].copy_from_slice(&[0xFF, 0xD9]);
        let problem = whole(&bytes).err().unwrap().to_string();
        assert_eq!(problem, "JPEG: Corrupt JPEG data: premature end of data segment");
        let above = |width, _| (CropRect { left: 0, top: 0, width, height: 16 }, 1);
        assert!(decode(&bytes, Vec::new(), above).is_ok());
        let problem = whole(b"\xFF\xD8\xFF\xDA").err().unwrap().to_string();
        assert!(problem.starts_with("JPEG: "), "{problem}");
    }

    #[test]
    fn a_panic_of_the_caller_goes_on() {
        let bytes = encode(&noise(16, 16, 7), SamplingFactor::F_1_1, false, 0);
        let panic = catch_unwind(|| decode(&bytes, Vec::new(), |_, _| resume_unwind(Box::new("mine")))).err().unwrap();
        assert_eq!(panic.downcast_ref(), Some(&"mine"));
    }

    /// The bindings' numbers of messages could differ from those of the library.
    #[test]
    fn harmless_warnings_are_those_that_are_meant() {
        let image = noise(32, 32, 8);
        let good = encode(&image, SamplingFactor::F_1_1, false, 0);
        // Stray bytes before the end marker, and an unknown version in the JFIF header.
        let stray = [&good[..good.len() - 2], &[0x7F], &good[good.len() - 2..]].concat();
        let mut version = good.clone();
        let jfif = version.windows(5).position(|bytes| bytes == b"JFIF\0").unwrap();
        version[jfif + 5] = 9;
        for bytes in [good, stray, version] {
            assert_eq!(scaled(&bytes, 1, CropRect::whole).into_image().unwrap().dimensions(), (32, 32));
        }
    }
}
