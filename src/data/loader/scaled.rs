//! JPEGs that are scaled down while they are decoded.

use std::sync::Arc;

use super::tests::{batches, config, tokenizer};
use super::*;
use crate::data::dataset::Dataset;
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;
use crate::data::testing::{Archive, jpeg, png};

const DECODING: Decoding = {
    use crate::data::sample::image::{ExifOrientation, JpegDecoder};
    Decoding { orientation: ExifOrientation::Ignore, jpeg: JpegDecoder::Turbo, scale_to: Some(16) }
};

/// JPEGs that are decoded at 1/1 to 1/8 for squares of 16 pixels, and as many PNG files.
fn archive() -> Archive {
    let mut archive = Archive::default();
    for number in 0..20 {
        let side = 30 + 20 * number as u32;
        archive.add(&format!("{number}.jpg"), &jpeg(side + 7, side, number));
        archive.add(&format!("{number}.txt"), format!("name {number}").as_bytes());
        archive.add(&format!("{number}p.png"), &png(side, side + 3, number));
        archive.add(&format!("{number}p.txt"), format!("name {number}").as_bytes());
    }
    archive
}

fn open(archive: &Archive, decoding: Decoding) -> Arc<Dataset> {
    Arc::new(Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap().with_decoding(decoding))
}

fn loaded(dataset: &Arc<Dataset>, config: LoaderConfig) -> Vec<Batch> {
    batches(&mut Loader::new(dataset.clone(), tokenizer(), config, Position::default()).unwrap(), 12)
}

#[test]
fn scaled_batches_do_not_depend_on_threads_the_cache_or_the_mask() {
    let archive = archive();
    let whole = |threads| LoaderConfig { mask_ratio: 0.0, ..config(10, threads) };
    let dataset = open(&archive, DECODING);
    let expected = loaded(&dataset, whole(1));
    assert_ne!(expected, loaded(&open(&archive, Decoding { scale_to: None, ..DECODING }), whole(1)));
    // Whole images that were looked at do not take the place of scaled ones.
    (0..40).for_each(|sample| drop(dataset.decoded(sample).unwrap()));
    assert_eq!(loaded(&dataset, whole(3)), expected);
    let uncached = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap();
    let uncached = Arc::new(uncached.with_decoding(DECODING).with_cache(0));
    assert_eq!(loaded(&uncached, whole(2)), expected);
    let masked = loaded(&dataset, LoaderConfig { mask_ratio: 0.75, ..whole(2) });
    let bytes = 4 * 4 * 3;
    for (masked, whole) in masked.iter().zip(&expected) {
        assert_eq!(masked.origins, whole.origins);
        for (place, (&id, patch)) in masked.ids_keep.iter().zip(masked.images.chunks_exact(bytes)).enumerate() {
            assert_eq!(patch, &whole.images[(place / 4 * 16 + id as usize) * bytes..][..bytes]);
        }
    }
}
