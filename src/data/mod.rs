//! From shards on disk to batches in memory.
//!
//! | file | what it does |
//! |---|---|
//! | `source` | from what the user writes to a list of shards |
//! | `store`, `tar` | a shard's bytes and its members |
//! | `members`, `shard` | which members make which sample |
//! | `damage`, `notes`, `sniff` | what is wrong with a shard, and the messages about it |
//! | `check` | whether a source has images and captions |
//! | `dataset`, `caption`, `json` | all samples by number: image, captions, tags, classes |
//! | `image`, `augment` | decoding, cropping, colour |
//! | `mask` | visible patches |
//! | `text` | text files, whatever editor wrote them |
//! | `tokenizer` | words to token numbers |
//! | `variety` | how much the captions differ, checked before training |
//! | `survey` | how well the tokenizer fits the captions, checked before training |
//! | `order` | epochs, shuffles, the position that a run resumes from |
//! | `loader` | training batches on threads |
//! | `label`, `eval` | labels and batches for evaluation |
//! | `health` | broken samples |
//! | `embedded` | the data set inside the program |

mod augment;
mod caption;
mod check;
mod damage;
mod dataset;
mod embedded;
mod error;
mod eval;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gunzip;
mod health;
pub mod image;
mod json;
mod label;
mod loader;
mod mask;
mod members;
mod notes;
mod order;
mod shard;
mod sniff;
mod source;
mod store;
mod survey;
pub mod tar;
#[cfg(test)]
mod testing;
pub mod text;
mod tokenizer;
mod variety;

pub(crate) use self::notes::some;
pub use self::{
    augment::{Augmentation, CropRect},
    caption::{Caption, CaptionKeys, CaptionLines, CaptionVariation},
    dataset::{CACHE_BYTES, Dataset},
    error::{Error, Result},
    eval::{EvalBatch, EvalBatches},
    health::{Broken, Kind, Skipped},
    label::{ClassNumbers, Content, Label},
    loader::{Batch, Loader, LoaderConfig},
    mask::{kept_patches, visible_patches},
    order::Position,
    source::{Location, Source},
    survey::Survey,
    tokenizer::{Tokenizer, TokenizerOptions},
    variety::Variety,
};
