//! The cache of decoded images.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::image::RgbImage;

/// Decoded images of a data set that fits as a whole.
pub(super) struct Cache {
    pub(super) budget: usize,
    used: AtomicUsize,
    pub(super) images: Mutex<HashMap<(u32, u32), Arc<RgbImage>>>,
}

impl Cache {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, used: AtomicUsize::new(0), images: Mutex::default() }
    }

    pub(super) fn get(&self, sample: (u32, u32)) -> Option<Arc<RgbImage>> {
        if self.used.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.images.lock().unwrap_or_else(PoisonError::into_inner).get(&sample).cloned()
    }

    /// Whether images of `bytes` bytes are kept: if all `samples` of the data set would fit at this size. Of a larger
    /// data set, the cache would hold a part that is hardly ever used.
    pub(super) fn fits(&self, bytes: usize, samples: usize) -> bool {
        bytes.saturating_mul(samples) <= self.budget
    }

    /// Keeps the image if there is room.
    pub(super) fn put(&self, sample: (u32, u32), image: &Arc<RgbImage>) {
        let size = image.as_raw().len();
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.load(Ordering::Relaxed);
        // Two threads may have decoded the same image.
        if used + size <= self.budget && images.insert(sample, image.clone()).is_none() {
            self.used.store(used + size, Ordering::Relaxed);
        }
    }
}
