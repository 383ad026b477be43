//! From shards on disk to batches in memory.
//!
//! From the top; each imports only from those below it (`tests/walls.rs` reads this table).
//!
//! | room or file | what lives there |
//! |---|---|
//! | `tools` | data sets checked, measured and packed outside of training |
//! | `loader` | in which order samples are visited, and batches on threads |
//! | `dataset` | all samples by number, or a list of shards; checks before training |
//! | `sample` | what one sample is: image, caption, tokens, mask, label |
//! | `format` | how bytes are laid out: tar archives, TFRecord, Parquet, tables, folders; damage |
//! | `store` | where bytes are: sources, files, unpacked files, the embedded data set |
//! | `text` | text files from any program |
//! | `broken` | why a sample is broken |
//! | `error` | errors that end loading |

mod broken;
mod dataset;
mod error;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod loader;
#[cfg(test)]
mod proptests;
mod sample;
mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod tools;

/// The type of [`Batch::images`], a buffer whose rows were written by several threads.
pub use bytes::BytesMut;

pub use self::broken::{Broken, Kind};
pub use self::dataset::{CACHE_BYTES, Dataset, Order, ShardList, Survey, TrainingData, Variety};
pub(crate) use self::error::io_may_pass;
pub use self::error::{DataError, Result, TextError};
#[cfg(feature = "parquet")]
pub(crate) use self::format::ParquetVectors;
pub(crate) use self::format::masked_crc;
pub(crate) use self::loader::part_of;
pub use self::loader::{
    Batch, Effort, Epoch, EvalBatch, EvalBatches, Found, Loader, LoaderConfig, Origin, Position, Skipped, Stages,
    StreamPosition, Tally,
};
pub use self::sample::{
    Augmentation, Caption, CaptionKeys, CaptionLines, CaptionVariation, ClassNumbers, Content, CropRect, Filter,
    FilterError, Label, Texts, Tokenizer, TokenizerOptions, cut_patches, image, kept_patches, visible_patches,
};
pub use self::store::{Access, CacheFolder, Location, Source};
