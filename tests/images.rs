//! Every kind of image file, compared with the pixels that Pillow reads from it; `tests/fixtures/images/README.md` says
//! how the files were made.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use flipk::data::image::{Decoding, ExifOrientation, JpegDecoder, Square, decode};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    file: String,
    /// Whether to rotate it as its EXIF data says.
    upright: bool,
    pillow_reads: bool,
    /// Why one of flipk and Pillow reads it and the other does not.
    #[serde(default)]
    otherwise: Option<String>,
    /// What the error must contain.
    #[serde(default)]
    said: Option<String>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    /// The largest difference of a channel that is allowed; `mean` is the mean over all of them.
    #[serde(default)]
    max: u8,
    #[serde(default)]
    mean: f64,
}

impl Image {
    /// What is wrong with flipk's reading of it; `pixels` are Pillow's.
    fn fault(&self, bytes: &[u8], pixels: &[u8], jpeg: JpegDecoder) -> Option<String> {
        let orientation = if self.upright { ExifOrientation::Apply } else { ExifOrientation::Ignore };
        let decoded =
            decode(bytes, Decoding { orientation, jpeg, ..Decoding::default() }).map_err(|error| error.to_string());
        if let Some(said) = &self.said {
            return match decoded {
                Err(message) if message.contains(said) => None,
                Err(message) => Some(format!("the message does not say `{said}`: {message}")),
                Ok(_) => Some("it was read".to_owned()),
            };
        }
        match (decoded, self.pillow_reads ^ self.otherwise.is_some()) {
            (Err(_), false) => None,
            (Err(message), true) => Some(message),
            (Ok(_), false) => Some("it was read".to_owned()),
            (Ok(_), true) if !self.pillow_reads => None,
            (Ok(image), true) if image.dimensions() != (self.width, self.height) => {
                Some(format!("{:?} instead of {} x {}", image.dimensions(), self.width, self.height))
            }
            (Ok(image), true) => {
                let differences = image.as_raw().iter().zip(pixels).map(|(a, b)| a.abs_diff(*b));
                let max = differences.clone().max().unwrap_or_default();
                let mean = differences.map(f64::from).sum::<f64>() / pixels.len() as f64;
                (max > self.max || mean > self.mean)
                    .then(|| format!("differs by {max} ({mean:.2} on average), not by {} ({})", self.max, self.mean))
            }
        }
    }
}

fn unpacked(folder: &Path, file: &str) -> Vec<u8> {
    let mut pixels = Vec::new();
    GzDecoder::new(&std::fs::read(folder.join(file)).unwrap()[..]).read_to_end(&mut pixels).unwrap();
    pixels
}

/// Pillow rounds between its two passes: 0.5 there, amplified by at most 1.25, and 0.5 at the end. It also clamps
/// there, and goes the other way, so that images of black and white come out differently where the filter overshoots;
/// here they are grey.
#[test]
fn squares_are_those_of_pillow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let (pixels, squares) = (unpacked(&folder, "expected.rgb.gz"), unpacked(&folder, "squares.rgb.gz"));
    let (mut pixels, mut squares) = (&pixels[..], &squares[..]);
    let (mut compared, mut total) = (0, 0.0);
    for entry in expected.images.iter().filter(|entry| entry.width > 0) {
        let own;
        (own, pixels) = pixels.split_at((entry.width * entry.height * 3) as usize);
        let image = image::RgbImage::from_raw(
            entry.width,
            entry.height,
            own.iter().map(|&v| 32 + (u16::from(v) * 3 / 4) as u8).collect(),
        );
        let image = image.unwrap();
        for side in [8, 20] {
            let theirs;
            (theirs, squares) = squares.split_at(side * side * 3);
            let mut ours = vec![0; side * side * 3];
            Square::new(side, side).center_crop(&image, &mut ours).unwrap();
            let differences = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
            let max = differences.clone().max();
            assert!(max <= Some(2), "{} at {side}: {max:?}", entry.file);
            total += differences.map(f64::from).sum::<f64>();
            compared += theirs.len();
        }
    }
    assert!(pixels.is_empty() && squares.is_empty() && compared > 100_000);
    // Pillow's rounding in between changes one number of six.
    assert!(total / (compared as f64) < 0.2, "{total} over {compared}");
}

#[test]
fn every_kind_of_file_is_read_as_pillow_reads_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let pixels = unpacked(&folder, "expected.rgb.gz");
    let mut rest = &pixels[..];
    let mut faults = Vec::new();
    for image in &expected.images {
        let own;
        (own, rest) = rest.split_at((image.width * image.height * 3) as usize);
        let bytes = std::fs::read(folder.join(&image.file)).unwrap();
        for jpeg in [JpegDecoder::Turbo, JpegDecoder::Rust].into_iter().filter(|jpeg| jpeg.is_built_in()) {
            let fault = image.fault(&bytes, own, jpeg);
            faults.extend(fault.map(|fault| format!("{} with {jpeg:?}: {fault}", image.file)));
        }
    }
    assert!(rest.is_empty() && expected.images.len() > 100);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), expected.images.len(), faults.join("\n"));
}
