//! Patches have the same bits whichever others are computed, and with every instruction set.

use ::image::RgbImage;

use super::*;
use crate::data::testing::noise;
use crate::random::{Purpose, Random};

/// Sizes of images and their crops, sides and patches: growing and shrinking, single pixels, thin images, odd numbers.
fn cases() -> Vec<([u32; 2], CropRect, [usize; 2])> {
    let sizes = [[72, 72], [61, 97], [333, 250], [24, 24], [7, 5], [1, 1], [1, 40], [1001, 13], [3, 900], [256, 256]];
    let sides = [[16, 8], [30, 10], [42, 14], [48, 16], [64, 32], [35, 5], [224, 16], [20, 20], [9, 1]];
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    let mut cases = Vec::new();
    for [width, height] in sizes {
        for sides in sides {
            let part = |length: u32, random: &mut Random| {
                let first = random.below(length);
                [first, 1 + random.below(length - first)]
            };
            let ([left, w], [top, h]) = (part(width, &mut random), part(height, &mut random));
            cases.push(([width, height], CropRect { left: 0, top: 0, width, height }, sides));
            cases.push(([width, height], CropRect { left, top, width: w, height: h }, sides));
        }
    }
    cases
}

/// Resized with `passes`; `inner` leaves out a tenth at each side, which still contributes.
fn resized(
    passes: Passes,
    image: &RgbImage,
    crop: CropRect,
    [side, patch]: [usize; 2],
    (mirrored, inner): (bool, bool),
    ids: &[u32],
) -> Vec<u8> {
    let span = |length: u32| match (Span::whole(length), inner) {
        (whole, false) => whole,
        (Span { source, length, .. }, true) => Span { source, first: 0.1 * length, length: 0.8 * length },
    };
    let (rows, columns) = (span(crop.height), span(crop.width));
    let mut out = vec![0; ids.len() * patch * patch * CHANNELS];
    let mut resizer = Resizer { passes, ..Resizer::new(side, patch) };
    // What was there before does not matter.
    resizer.lines.resize(100_000, 0x5555);
    resizer.lanes.resize(1000, [-0x5555; _]);
    let source = Source { pixels: image.as_raw(), width: image.width(), crop, rows, columns, mirrored };
    resizer.resize(&source, ids, &mut out);
    out
}

#[test]
fn some_patches_have_the_bits_of_all() {
    let mut random = Random::new(2, Purpose::Test, 0, 0);
    for (place, ([width, height], crop, sides)) in cases().into_iter().enumerate() {
        let [side, patch] = sides;
        let image = noise(width, height, place as u64);
        let how = (place % 2 == 1, place % 3 == 0);
        let patches = (side / patch).pow(2);
        let ids: Vec<u32> = (0..patches as u32).collect();
        let all = resized(Passes::best(), &image, crop, sides, how, &ids);
        for kept in [1, patches / 4, patches / 2, patches] {
            // In any order.
            let ids: Vec<u32> = random.permutation(patches).into_iter().take(kept).collect();
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            for ids in [ids, sorted] {
                let some = resized(Passes::best(), &image, crop, sides, how, &ids);
                let bytes = patch * patch * CHANNELS;
                for (patch, &id) in some.chunks_exact(bytes).zip(&ids) {
                    assert!(
                        patch == &all[id as usize * bytes..][..bytes],
                        "{width} x {height}, {crop:?}, {sides:?}, {id}"
                    );
                }
            }
        }
    }
}

#[test]
fn patches_do_not_depend_on_how_the_square_is_cut() {
    for (place, ([width, height], crop, [side, patch])) in cases().into_iter().enumerate() {
        let image = noise(width, height, place as u64);
        let how = (place % 2 == 0, place % 3 == 1);
        let whole = resized(Passes::best(), &image, crop, [side, side], how, &[0]);
        let across = side / patch;
        let ids: Vec<u32> = (0..(across * across) as u32).collect();
        let patches = resized(Passes::best(), &image, crop, [side, patch], how, &ids);
        let line = patch * CHANNELS;
        for (place, patch_line) in patches.chunks_exact(line).enumerate() {
            let (id, y) = (place / patch, place % patch);
            let at = ((id / across * patch + y) * side + id % across * patch) * CHANNELS;
            assert!(patch_line == &whole[at..at + line], "{width} x {height}, {crop:?}, {side}, {patch}");
        }
    }
}

#[test]
fn mirrored_is_the_mirror_image() {
    for (place, ([width, height], crop, [side, _])) in cases().into_iter().enumerate() {
        let image = noise(width, height, place as u64);
        let [plain, mirrored] =
            [false, true].map(|mirrored| resized(Passes::best(), &image, crop, [side, side], (mirrored, false), &[0]));
        let plain = RgbImage::from_raw(side as u32, side as u32, plain).unwrap();
        assert!(
            ::image::imageops::flip_horizontal(&plain).into_raw() == mirrored,
            "{width} x {height}, {crop:?}, {side}"
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_instruction_set_gives_the_same_bits() {
    if !simd::has_avx2() {
        return println!("skipped: no AVX2 here");
    }
    for (place, ([width, height], crop, sides)) in cases().into_iter().enumerate() {
        let image = noise(width, height, place as u64);
        let ids: Vec<u32> = (0..(sides[0] / sides[1]).pow(2) as u32).step_by(1 + place % 3).collect();
        let how = (place % 2 == 0, place % 3 == 0);
        let [plain, wide] = [Passes::Plain, Passes::Avx2].map(|passes| resized(passes, &image, crop, sides, how, &ids));
        assert!(plain == wide, "{width} x {height}, {crop:?}, {sides:?}");
    }
}

#[test]
fn flat_images_stay_flat_and_whole_numbers_stay_what_they_are() {
    for value in [0, 1, 127, 254, 255] {
        let image = RgbImage::from_pixel(211, 97, ::image::Rgb([value; 3]));
        let crop = CropRect { left: 3, top: 5, width: 200, height: 90 };
        assert!(
            resized(Passes::best(), &image, crop, [64, 16], (false, false), &[0, 5, 15]).iter().all(|&v| v == value)
        );
    }
    let image = noise(48, 48, 1);
    let crop = CropRect { left: 0, top: 0, width: 48, height: 48 };
    assert!(&resized(Passes::best(), &image, crop, [48, 48], (false, false), &[0]) == image.as_raw());
}
