//! Data sets checked, measured and rewritten outside of training: what `flipk data` does.
//!
//! | file | what it does |
//! |---|---|
//! | `check` | reads every sample |
//! | `stat` | what is in a data set, and how fast it loads |
//! | `preview` | draws samples as a model sees them |
//! | `contact` | draws images that were found, with a line about each |
//! | `draw` | what both draw with |
//! | `pack`, `packer` | shards with smaller images: what they are; writing them |
//! | `journal` | what a pack has so far, so that it can be continued |
//! | `archive` | writes one shard |
//! | `shrink` | makes an image smaller |
//! | `input` | shards that are opened in order |

mod archive;
mod check;
#[cfg(feature = "cli")]
mod contact;
#[cfg(feature = "cli")]
mod draw;
mod input;
mod journal;
mod pack;
mod packer;
#[cfg(feature = "cli")]
mod preview;
mod shrink;
mod stat;

pub use self::check::{Checked, Finding, check};
#[cfg(feature = "cli")]
pub use self::contact::{Section, SheetFormat, Thumbnail, contact_sheet};
pub use self::input::Input;
pub use self::pack::{Filter, Form, Pack, PackError, Packed, ShardLimit, Tokens};
#[cfg(feature = "cli")]
pub use self::preview::{Previewed, Shown, preview};
pub use self::stat::{Distribution, Speed, Statistics, stat};
