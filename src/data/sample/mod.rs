//! What one sample is: its image, caption and label, and how they become a model's inputs.
//!
//! | file | what it does |
//! |---|---|
//! | `image` | decoding and cropping |
//! | `augment` | random crops, flips and colour |
//! | `mask` | visible patches |
//! | `caption`, `json` | captions and tags, from text or from a record |
//! | `filter` | which samples are used, by the fields of their records |
//! | `tokenizer` | from words to token numbers |
//! | `label` | what an image is compared with in evaluation |
//!
//! Where a sample is stored belongs in `store` and `format`; which other samples there are, in `dataset`.

mod augment;
mod caption;
mod filter;
pub mod image;
pub(crate) mod json;
pub(crate) mod label;
mod mask;
pub(crate) mod number;
mod tokenizer;

pub use self::augment::{Augmentation, CropRect};
pub use self::caption::{Caption, CaptionKeys, CaptionLines, CaptionVariation};
pub use self::filter::{Filter, FilterError};
pub(crate) use self::json::Record;
pub use self::label::{ClassNumbers, Content, Label};
pub(crate) use self::mask::Masks;
pub use self::mask::{cut_patches, kept_patches, visible_patches};
pub(crate) use self::tokenizer::Words;
pub use self::tokenizer::{Texts, Tokenizer, TokenizerOptions};
