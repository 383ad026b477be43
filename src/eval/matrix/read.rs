//! Embeddings from a file, a few rows at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use half::{bf16, f16};
use regex::Regex;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{Format, Part, keys_path};
#[cfg(feature = "parquet")]
use crate::data::ParquetVectors;
use crate::eval::EvalError;

/// Largest header that is read; sensible files have a few lines.
const MAX_HEADER: u64 = 100 << 20;

/// The embeddings in a `.npy`, `.safetensors` or `.parquet` file, of flipk or of another program: numbers of 16, 32 or
/// 64 bits, `[rows, width]`.
///
/// If a safetensors file has several tensors, `images` is read. In Parquet it is the column `embedding`.
pub struct MatrixReader {
    path: PathBuf,
    rows: u64,
    width: usize,
    form: Form,
    /// Lines of `FILE.keys`.
    keys: Option<BufReader<File>>,
}

/// Rows of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Keys of images, or texts, if the file has them, `[rows]`.
    pub names: Vec<Option<String>>,
    /// Shards of images, if the file has them, `[rows]`.
    pub shards: Vec<Option<String>>,
    /// `[rows, width]`.
    pub values: Vec<f32>,
}

impl From<([Vec<Option<String>>; 2], Vec<f32>)> for Rows {
    fn from(([names, shards], values): ([Vec<Option<String>>; 2], Vec<f32>)) -> Self {
        Self { names, shards, values }
    }
}

enum Form {
    Plain {
        file: BufReader<File>,
        dtype: Dtype,
        left: u64,
    },
    #[cfg(feature = "parquet")]
    Parquet {
        vectors: Box<ParquetVectors>,
        /// Rows that were read to learn their width.
        first: Option<Rows>,
    },
}

/// Where numbers are in a file.
struct Place {
    start: u64,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl MatrixReader {
    /// Whether `path` is read as embeddings by its name; a `.parquet` file also needs the column `embedding`.
    pub fn accepts(path: &Path) -> bool {
        match Format::of(path) {
            Some(Format::Npy | Format::Safetensors) => true,
            Some(Format::Parquet) => path.is_file() && is_parquet(path),
            None => false,
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, is cut, or has no matrix of floats.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        Self::try_open(path).map_err(|problem| EvalError::Matrix { path: path.to_owned(), problem })
    }

    fn try_open(path: &Path) -> Result<Self, String> {
        let format = Format::of(path);
        if format == Some(Format::Parquet) {
            return Self::open_parquet(path);
        }
        let mut file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
        let (place, part) = match format {
            Some(Format::Npy) => (npy(&mut file)?, None),
            _ => safetensors(&mut file)?,
        };
        let &[rows, width] = place.shape.as_slice() else {
            return Err(format!("its shape is {:?}; embeddings have two dimensions, [rows, width]", place.shape));
        };
        if width == 0 {
            return Err("its rows are empty".to_owned());
        }
        let bytes = size(place.dtype).ok_or_else(|| format!("it has numbers of type {:?}, not floats", place.dtype))?;
        let needed = (rows as u64).checked_mul(width as u64).and_then(|count| count.checked_mul(bytes as u64));
        let length = file.get_ref().metadata().map_err(|error| error.to_string())?.len();
        if needed.and_then(|needed| needed.checked_add(place.start)).is_none_or(|end| end > length) {
            return Err(format!("it is cut: it has no room for {rows} x {width} numbers"));
        }
        file.seek(SeekFrom::Start(place.start)).map_err(|error| error.to_string())?;
        // Texts have no file of keys.
        let keys = (part != Some(Part::Texts)).then(|| File::open(keys_path(path)).ok()).flatten().map(BufReader::new);
        let form = Form::Plain { file, dtype: place.dtype, left: rows as u64 };
        Ok(Self { path: path.to_owned(), rows: rows as u64, width, form, keys })
    }

    #[cfg(feature = "parquet")]
    fn open_parquet(path: &Path) -> Result<Self, String> {
        let vectors = ParquetVectors::open(path, "embedding", [&["key", "text"], &["shard"]])?;
        let mut vectors = Box::new(vectors.ok_or("it has no column `embedding` with lists of floats")?);
        let mut width = None;
        let first = vectors.next(1, &mut width)?.map(Rows::from);
        let (rows, width) = (vectors.len(), width.unwrap_or(0));
        let form = Form::Parquet { vectors, first };
        Ok(Self { path: path.to_owned(), rows, width, form, keys: None })
    }

    #[cfg(not(feature = "parquet"))]
    fn open_parquet(_: &Path) -> Result<Self, String> {
        Err("this build has no support for Parquet (the Cargo feature `parquet`)".to_owned())
    }

    /// All rows of the file.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The next rows, at most `most`; `None` at the end.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn next(&mut self, most: usize) -> Result<Option<Rows>, EvalError> {
        let rows = match &mut self.form {
            Form::Plain { file, dtype, left } => plain(file, *dtype, left, most, self.width),
            #[cfg(feature = "parquet")]
            Form::Parquet { first: Some(rows), .. } if rows.names.is_empty() => Ok(None),
            #[cfg(feature = "parquet")]
            Form::Parquet { vectors, first } => match first.take() {
                Some(rows) => Ok(Some(rows)),
                None => {
                    let found = vectors.next(most, &mut Some(self.width));
                    found.map(|found| found.map(Rows::from))
                }
            },
        };
        let rows = rows.map_err(|problem| EvalError::Matrix { path: self.path.clone(), problem })?;
        let bad_keys = |problem| EvalError::Matrix { path: keys_path(&self.path), problem };
        let Some(mut rows) = rows else {
            return match self.keys.as_mut().map(|keys| keys.fill_buf().map(<[u8]>::is_empty)) {
                None | Some(Ok(true)) => Ok(None),
                Some(Ok(false)) => {
                    Err(bad_keys("it has more lines than there are rows; embed the images again".to_owned()))
                }
                Some(Err(error)) => Err(bad_keys(error.to_string())),
            };
        };
        if let Some(keys) = &mut self.keys {
            let named = rows.names.iter_mut().try_for_each(|name| next_line(keys).map(|line| *name = Some(line)));
            named.map_err(bad_keys)?;
        }
        Ok(Some(rows))
    }
}

fn next_line(keys: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    match keys.read_line(&mut line) {
        Ok(0) => Err("it has fewer lines than there are rows; embed the images again".to_owned()),
        Ok(_) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "parquet")]
fn is_parquet(path: &Path) -> bool {
    ParquetVectors::open(path, "embedding", [&[], &[]]).is_ok_and(|found| found.is_some())
}

#[cfg(not(feature = "parquet"))]
fn is_parquet(_: &Path) -> bool {
    false
}

fn size(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

fn plain(
    file: &mut impl Read,
    dtype: Dtype,
    left: &mut u64,
    most: usize,
    width: usize,
) -> Result<Option<Rows>, String> {
    let rows = (most as u64).min(*left) as usize;
    if rows == 0 {
        return Ok(None);
    }
    *left -= rows as u64;
    let mut bytes = vec![0; rows * width * size(dtype).unwrap_or(0)];
    file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let values = match dtype {
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&of| f16::from_le_bytes(of).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|&of| bf16::from_le_bytes(of).to_f32()).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|&of| f64::from_le_bytes(of) as f32).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|&of| f32::from_le_bytes(of)).collect(),
    };
    Ok(Some(Rows { names: vec![None; rows], shards: vec![None; rows], values }))
}

/// The next `length` bytes of a header.
fn header(file: &mut impl Read, length: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = file.take(length.min(MAX_HEADER)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if read as u64 == length { Ok(bytes) } else { Err("its header is cut or damaged".to_owned()) }
}

/// The header of a `.npy` file: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn npy(file: &mut impl Read) -> Result<Place, String> {
    static FIELD: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"'descr':\s*'(?<type>[^']*)'.*'fortran_order':\s*(?<fortran>\w+).*'shape':\s*\((?<shape>[^)]*)\)")
            .ok()
    });
    let start = header(file, 8)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("it does not begin as a .npy file does".to_owned());
    }
    let (length, before) = match start[6] {
        1 => (u64::from(u16::from_le_bytes(array(&header(file, 2)?))), 10),
        _ => (u64::from(u32::from_le_bytes(array(&header(file, 4)?))), 12),
    };
    let text = String::from_utf8_lossy(&header(file, length)?).into_owned();
    let unknown = || format!("its header is unknown: {}", text.trim_end());
    let fields = FIELD.as_ref().and_then(|field| field.captures(&text)).ok_or_else(unknown)?;
    if &fields["fortran"] != "False" {
        return Err("its numbers are column by column; save it with numpy.ascontiguousarray".to_owned());
    }
    let dtype = match &fields["type"] {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        other => return Err(format!("it has numbers of the type {other}; it must be float16, float32 or float64")),
    };
    let sizes = fields["shape"].split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(|size| size.parse().map_err(|_| unknown())).collect::<Result<_, _>>()?;
    Ok(Place { start: before + length, shape, dtype })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// The tensor `images`, or the only one.
fn safetensors(file: &mut impl Read) -> Result<(Place, Option<Part>), String> {
    let start = header(file, 8)?;
    let length = u64::from_le_bytes(array(&start));
    let not_one = |error: serde_json::Error| format!("it is not a safetensors file: {error}");
    let metadata: Metadata = serde_json::from_slice(&header(file, length)?).map_err(not_one)?;
    let tensors = metadata.tensors();
    let images = tensors.get(Part::Images.name()).map(|tensor| (Some(Part::Images), tensor));
    let only = || match tensors.iter().next() {
        Some((name, tensor)) if tensors.len() == 1 => {
            Ok(((*name == Part::Texts.name()).then_some(Part::Texts), tensor))
        }
        _ => Err(format!("it has {} tensors, and none is called `images`", tensors.len())),
    };
    let (part, tensor) = images.map_or_else(only, Ok)?;
    let start = (8 + length).saturating_add(tensor.data_offsets.0 as u64);
    Ok((Place { start, shape: tensor.shape.clone(), dtype: tensor.dtype }, part))
}
