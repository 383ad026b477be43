//! JPEG through libjpeg-turbo (as MozJPEG ships it): all of an image, or the part that a crop needs.
//!
//! Blocks left and right of the part are not transformed, rows above it are only read past, and reading stops after
//! its last row. The pixels are those of decoding everything: neighbours that the upsampling of colours looks at are
//! decoded too.

use std::ffi::{c_int, c_ulong};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use ::image::RgbImage;
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

/// Decodes at least what `choose` picks, given the image's width and height. `None` if the image has colours that
/// libjpeg-turbo does not convert to RGB (CMYK).
///
/// # Errors
/// Damage in what is read, or sizes that are refused.
pub(super) fn decode(bytes: &[u8], choose: impl FnOnce(u32, u32) -> CropRect) -> Result<Option<Part>, ImageError> {
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
        read(info, bytes, choose)
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
    choose: impl FnOnce(u32, u32) -> CropRect,
) -> Result<Option<Part>, ImageError> {
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
    let crop = choose(width, height);
    info.out_color_space = J_COLOR_SPACE::JCS_RGB;
    // SAFETY: the header was read.
    unsafe { jpeg_start_decompress(info) };
    let (mut left, mut columns, mut top, bottom) = (0, width, 0, crop.top + crop.height);
    if columns > crop.width {
        // The neighbours of the first and the last column lie in the blocks next to theirs.
        let margin = info.max_h_samp_factor as u32 * DCTSIZE as u32;
        left = crop.left.saturating_sub(margin);
        columns = (crop.left + crop.width + margin).min(width) - left;
        // SAFETY: decoding has started and no row was read; the columns lie in the image. The library moves `left` to
        // the start of a block.
        unsafe { jpeg_crop_scanline(info, &mut left, &mut columns) };
    }
    let margin = info.max_v_samp_factor as u32 * DCTSIZE as u32;
    if crop.top > margin {
        // SAFETY: decoding has started, and there are more rows than that.
        top = unsafe { jpeg_skip_scanlines(info, crop.top - margin) };
    }
    let stride = columns as usize * 3;
    let mut pixels = vec![0; stride * (bottom - top) as usize];
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
    let image = RgbImage::from_raw(columns, bottom - top, pixels).ok_or(ImageError::NoPixels(columns, bottom - top))?;
    Ok(Some(Part { image, crop: CropRect { left: crop.left - left, top: crop.top - top, ..crop } }))
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
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

    use super::*;
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

    fn part(bytes: &[u8], crop: impl FnOnce(u32, u32) -> CropRect) -> Part {
        decode(bytes, crop).unwrap().unwrap()
    }

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
                let bytes = encode(&image, sampling, progressive, restarts);
                let Part { image: whole, .. } = part(&bytes, CropRect::whole);
                assert_eq!(whole.dimensions(), (width, height));
                for _ in 0..20 {
                    let (left, top) = (random.below(width), random.below(height));
                    let (w, h) = (1 + random.below(width - left), 1 + random.below(height - top));
                    let asked = CropRect { left, top, width: w, height: h };
                    let Part { image, crop } = part(&bytes, |_, _| asked);
                    let cut = |image: &RgbImage, at: CropRect| {
                        ::image::imageops::crop_imm(image, at.left, at.top, at.width, at.height).to_image()
                    };
                    assert!(cut(&image, crop) == cut(&whole, asked), "{width} x {height}, {sampling:?}, {asked:?}");
                    smaller += usize::from(image.width() < width && image.height() < height);
                }
            }
        }
        assert!(smaller > 100, "{smaller} parts were decoded alone");
    }

    #[test]
    fn damage_is_an_error_where_it_is_read() {
        let mut bytes = encode(&noise(160, 160, 6), SamplingFactor::F_2_2, false, 0);
        // An end marker in the middle of the data.
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2].copy_from_slice(&[0xFF, 0xD9]);
        let problem = decode(&bytes, CropRect::whole).err().unwrap().to_string();
        assert_eq!(problem, "JPEG: Corrupt JPEG data: premature end of data segment");
        let above = |width, _| CropRect { left: 0, top: 0, width, height: 16 };
        assert!(decode(&bytes, above).is_ok());
        let problem = decode(b"\xFF\xD8\xFF\xDA", CropRect::whole).err().unwrap().to_string();
        assert!(problem.starts_with("JPEG: "), "{problem}");
    }

    #[test]
    fn a_panic_of_the_caller_goes_on() {
        let bytes = encode(&noise(16, 16, 7), SamplingFactor::F_1_1, false, 0);
        let panic = catch_unwind(|| decode(&bytes, |_, _| resume_unwind(Box::new("mine")))).err().unwrap();
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
            assert_eq!(part(&bytes, CropRect::whole).image.dimensions(), (32, 32));
        }
    }
}
