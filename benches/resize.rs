//! Time of a random resized crop to 224 px on one thread, in microseconds of its CPU time: all 196 patches, 98 and 49
//! of them, and fast_image_resize for the whole. All of them make the same crops, in turns; the best of the rounds
//! counts.

use std::time::Duration;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use flipk::data::image::Square;
use flipk::data::{Augmentation, CropRect, visible_patches};
use flipk::random::{Purpose, Random};
use image::RgbImage;

const SIDE: usize = 224;
const PATCH: usize = 16;
const PATCHES: usize = (SIDE / PATCH) * (SIDE / PATCH);
const CROPS: u64 = 64;
const ROUNDS: usize = 30;

/// Time that this thread has computed.
fn clock() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(code, 0, "the clock of this thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peer(resizer: &mut Resizer, image: &RgbImage, random: &mut Random, out: &mut [u8]) {
    let CropRect { left, top, width, height } = Augmentation::default().crop(image.width(), image.height(), random);
    let view = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.as_raw()).expect("an image");
    let view = TypedCroppedImage::new(view, left, top, width, height).expect("a crop");
    let mut to = TypedImage::from_buffer(SIDE as u32, SIDE as u32, out).expect("a square");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize_typed(&view, &mut to, &options).expect("a crop and a square");
}

fn main() {
    println!("source    fast_image_resize    all patches    98    49  (us an image)");
    for (width, height) in [(256, 256), (500, 375), (1024, 768)] {
        let mut random = Random::new(0, Purpose::Test, 0, 0);
        let image = RgbImage::from_fn(width, height, |_, _| image::Rgb([(); 3].map(|()| random.below(256) as u8)));
        let (mut square, mut resizer) = (Square::new(SIDE, PATCH), Resizer::new());
        let mut out = vec![0; square.bytes()];
        let mut best = [Duration::MAX; 4];
        for _ in 0..ROUNDS {
            for (best, kept) in best.iter_mut().zip([0, PATCHES, 98, 49]) {
                let mut ids = vec![0; kept];
                let mut time = Duration::ZERO;
                for crop in 0..CROPS {
                    visible_patches(0, 0, crop, PATCHES, &mut ids);
                    let mut random = Random::new(0, Purpose::Crop, 0, crop);
                    let start = clock();
                    match kept {
                        0 => peer(&mut resizer, &image, &mut random, &mut out),
                        kept => square
                            .augmented(
                                &image,
                                &Augmentation::default(),
                                &mut random,
                                &ids,
                                &mut out[..kept * PATCH * PATCH * 3],
                            )
                            .expect("an output of the right length"),
                    }
                    time += clock() - start;
                }
                *best = time.min(*best);
            }
        }
        let [peer, all, half, quarter] = best.map(|time| time.as_secs_f64() * 1e6 / CROPS as f64);
        println!("{width:4} x {height:<4} {peer:15.1} {all:14.1} {half:8.1} {quarter:5.1}");
    }
}
