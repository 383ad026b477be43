//! From shards on disk to batches in memory.
//!
//! ```text
//! loader ──> dataset ──> sample ──> format ──> store        each also uses the files of this folder
//! ```
//!
//! | room | what lives there |
//! |---|---|
//! | `store` | where bytes are: sources, files, gzip, the embedded data set |
//! | `format` | how they are laid out: tar archives, their members, damage |
//! | `sample` | what one sample is: image, caption, tokens, mask, label |
//! | `dataset` | all samples by number, and checks before training |
//! | `loader` | in which order they are visited, and batches on threads |
//!
//! | file | what it does |
//! |---|---|
//! | `broken`, `error` | why a sample cannot be used; why loading ends |
//! | `text` | text files, whatever editor wrote them |

mod broken;
mod dataset;
mod error;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod loader;
mod sample;
mod store;
#[cfg(test)]
mod testing;
pub mod text;

pub use self::broken::{Broken, Kind};
pub use self::dataset::{CACHE_BYTES, Dataset, Survey, Variety};
pub use self::error::{Error, Result};
pub use self::format::tar;
pub use self::loader::{Batch, EvalBatch, EvalBatches, Loader, LoaderConfig, Position, Skipped};
pub use self::sample::{
    Augmentation, Caption, CaptionKeys, CaptionLines, CaptionVariation, ClassNumbers, Content, CropRect, Label,
    Tokenizer, TokenizerOptions, image, kept_patches, visible_patches,
};
pub use self::store::{Location, Source};
