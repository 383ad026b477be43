//! Which patches of an image are seen (FLIP, section 3: a uniformly random subset per sample and visit).

use crate::random::{Purpose, Random};

/// How many of `patches` are visible at a mask `ratio` in `[0, 1)`: `int(patches * (1 - ratio))`, at least 1.
///
/// The slack of 1e-4 undoes rounding: `10 * (1 - 0.3)` is 7 even if the ratio was once an f32.
pub fn kept_patches(patches: usize, ratio: f64) -> usize {
    ((patches as f64 * (1.0 - ratio) + 1e-4) as usize).clamp(1, patches.max(1))
}

/// Fills `ids_keep` (`[kept]`) with the visible patches of `patches`, in ascending order.
///
/// Every patch gets a uniform random number that depends only on `(seed, epoch, sample)`; those with the smallest are
/// kept. Their order does not matter to the encoder, and ascending addresses are read fastest.
///
/// # Panics
/// If `ids_keep` is longer than `patches`.
pub fn visible_patches(seed: u64, epoch: u64, sample: u64, patches: usize, ids_keep: &mut [u32]) {
    Masks::default().draw(seed, epoch, sample, patches, ids_keep);
}

/// Draws visible patches for one sample after another; reuses its work space.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    noise: Vec<(u32, u32)>,
}

impl Masks {
    /// As [`visible_patches`].
    pub(crate) fn draw(&mut self, seed: u64, epoch: u64, sample: u64, patches: usize, ids_keep: &mut [u32]) {
        let kept = ids_keep.len();
        assert!(kept <= patches, "{kept} of {patches} patches cannot be kept");
        let mut random = Random::new(seed, Purpose::Mask, epoch, sample);
        self.noise.clear();
        self.noise.extend((0..patches as u32).map(|patch| (random.next_u32(), patch)));
        if kept < patches {
            self.noise.select_nth_unstable(kept);
        }
        for (id, (_, patch)) in ids_keep.iter_mut().zip(&self.noise) {
            *id = *patch;
        }
        ids_keep.sort_unstable();
    }
}

/// The pixels of the patches `ids` of an RGB image (`[side, side, 3]`), `[ids, patch, patch, 3]`. The loader never has
/// such an image; this is for images from elsewhere.
///
/// # Panics
/// If there is no such patch, or `image` is shorter.
pub fn cut_patches(image: &[u8], side: usize, patch: usize, ids: &[u32]) -> Vec<u8> {
    let (across, line) = (side / patch, patch * 3);
    let mut out = Vec::with_capacity(ids.len() * patch * line);
    for &id in ids {
        let (top, left) = (id as usize / across * patch, id as usize % across * patch);
        for y in top..top + patch {
            out.extend_from_slice(&image[(y * side + left) * 3..][..line]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/method.md, "Vision tower": kept patches of 196 and 256 patches at ratio 0, 0.5 and 0.75.
    #[test]
    fn kept_patches_are_those_of_the_paper() {
        assert_eq!([0.0, 0.5, 0.75].map(|ratio| kept_patches(196, ratio)), [196, 98, 49]);
        assert_eq!([0.0, 0.5, 0.75].map(|ratio| kept_patches(256, ratio)), [256, 128, 64]);
        assert_eq!(kept_patches(10, 0.3), 7);
        assert_eq!(kept_patches(10, f64::from(0.3_f32)), 7);
        assert_eq!(kept_patches(9, 0.5), 4);
        assert_eq!(kept_patches(36, 0.999), 1);
    }

    fn mask(seed: u64, epoch: u64, sample: u64, patches: usize, kept: usize) -> Vec<u32> {
        let mut ids = vec![0; kept];
        visible_patches(seed, epoch, sample, patches, &mut ids);
        ids
    }

    #[test]
    fn all_patches_are_in_order() {
        assert_eq!(mask(1, 2, 3, 49, 49), (0..49).collect::<Vec<u32>>());
    }

    #[test]
    fn a_mask_belongs_to_its_seed_epoch_and_sample() {
        let base = mask(1, 2, 3, 196, 49);
        assert!(base.windows(2).all(|pair| pair[0] < pair[1]) && base[48] < 196, "distinct and in range");
        assert_eq!(base, mask(1, 2, 3, 196, 49));
        for other in [mask(0, 2, 3, 196, 49), mask(1, 0, 3, 196, 49), mask(1, 2, 0, 196, 49)] {
            assert_ne!(base, other);
        }
    }

    /// The kept ones are those with the smallest noise: the definition, by a full sort.
    #[test]
    fn the_smallest_noise_is_kept() {
        let mut random = Random::new(8, Purpose::Mask, 1, 5);
        let noise: Vec<u32> = (0..50).map(|_| random.next_u32()).collect();
        let mut order: Vec<u32> = (0..50).collect();
        order.sort_by_key(|&patch| noise[patch as usize]);
        order.truncate(20);
        order.sort_unstable();
        assert_eq!(mask(8, 1, 5, 50, 20), order);
    }

    /// Each patch is kept with probability 1/4, and each pair with 1/4 * 15/63 (without replacement), within five
    /// standard deviations of a binomial count.
    #[test]
    fn patches_and_pairs_are_kept_uniformly() {
        let (patches, kept, draws) = (64, 16, 20_000);
        let (mut single, mut pairs) = (vec![0.0; patches], vec![0.0; patches]);
        for sample in 0..draws {
            let ids = mask(11, 0, sample, patches, kept);
            for &id in &ids {
                single[id as usize] += 1.0;
                if ids.contains(&((id + 1) % patches as u32)) {
                    pairs[id as usize] += 1.0;
                }
            }
        }
        for (counts, p) in [(single, 0.25_f64), (pairs, 0.25 * 15.0 / 63.0)] {
            let (mean, deviation) = (draws as f64 * p, (draws as f64 * p * (1.0 - p)).sqrt());
            assert!(counts.iter().all(|count: &f64| (count - mean).abs() < 5.0 * deviation), "{counts:?}");
        }
    }
}
