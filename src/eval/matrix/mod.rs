//! Embeddings in files: NumPy's `.npy`, safetensors, and Parquet.
//!
//! | file | what it does |
//! |---|---|
//! | `write` | writes `.npy` and safetensors row by row |
//! | `read` | reads all three a few rows at a time |
//! | `parquet` | writes Parquet |

#[cfg(feature = "parquet")]
mod parquet;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use self::read::{MatrixReader, Rows};
pub use self::write::MatrixFile;

/// What the rows of a matrix belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Images; each row has the image's key, and in Parquet its shard.
    Images,
    /// Texts; each row has the text.
    Texts,
}

impl Part {
    /// The matrix in a safetensors file.
    fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Texts => "texts",
        }
    }
}

/// The formats of such a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Safetensors,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "npy" => Some(Self::Npy),
            "safetensors" => Some(Self::Safetensors),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// The file with the keys of the images in `path`, one per line; Parquet has them in a column instead.
fn keys_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".keys");
    name.into()
}
