//! Every kind of image file, compared with the pixels that Pillow reads from it; `tests/fixtures/images/README.md` says how
//! the files were made.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use flipk::data::image::{ExifOrientation, decode};
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
    fn fault(&self, bytes: &[u8], pixels: &[u8]) -> Option<String> {
        let orientation = if self.upright { ExifOrientation::Apply } else { ExifOrientation::Ignore };
        let decoded = decode(bytes, orientation).map_err(|error| error.to_string());
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

#[test]
fn every_kind_of_file_is_read_as_pillow_reads_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut pixels = Vec::new();
    GzDecoder::new(&std::fs::read(folder.join("expected.rgb.gz")).unwrap()[..]).read_to_end(&mut pixels).unwrap();
    let mut rest = &pixels[..];
    let mut faults = Vec::new();
    for image in &expected.images {
        let own;
        (own, rest) = rest.split_at((image.width * image.height * 3) as usize);
        let bytes = std::fs::read(folder.join(&image.file)).unwrap();
        faults.extend(image.fault(&bytes, own).map(|fault| format!("{}: {fault}", image.file)));
    }
    assert!(rest.is_empty() && expected.images.len() > 100);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), expected.images.len(), faults.join("\n"));
}
