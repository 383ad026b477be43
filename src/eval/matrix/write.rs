//! Matrices of embeddings, written row by row into files that appear when they are complete.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[cfg(feature = "parquet")]
use super::parquet::ParquetFile;
use super::{Format, Part, keys_path};

/// Bytes before the numbers. NumPy and safetensors allow spaces after a header, whose lengths are only known at the
/// end.
const HEADER: usize = 1024;

/// Embeddings of images, texts or both in a `.npy`, `.safetensors` or `.parquet` file.
///
/// The keys of images are in `FILE.keys`, one per line; a Parquet file has the columns `key` and `shard`, or `text`,
/// and `embedding`.
pub struct MatrixFile {
    width: usize,
    /// Matrices and their rows; the last one grows.
    parts: Vec<(Part, usize)>,
    form: Form,
}

enum Form {
    Plain {
        format: Format,
        file: Partial,
        keys: Option<Partial>,
    },
    #[cfg(feature = "parquet")]
    Parquet {
        file: Partial,
        writer: Option<ParquetFile>,
    },
}

/// A file under a temporary name, which is removed unless the file is finished.
pub(super) struct Partial {
    path: PathBuf,
    partial: PathBuf,
    pub(super) file: BufWriter<File>,
    done: bool,
}

impl Partial {
    fn create(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        let partial = PathBuf::from([path.as_os_str(), OsStr::new(".partial")].join(OsStr::new("")));
        let file = BufWriter::new(File::create(&partial)?);
        Ok(Self { path: path.to_owned(), partial, file, done: false })
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays only takes up space.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

impl MatrixFile {
    /// Begins the file; rows have `width` numbers. The format is that of the name.
    ///
    /// # Errors
    /// Another ending, or a file that cannot be created.
    pub fn create(path: &Path, width: usize) -> io::Result<Self> {
        let form = match Format::of(path) {
            Some(Format::Parquet) => Self::create_parquet(path)?,
            Some(format) => {
                let mut file = Partial::create(path)?;
                file.file.write_all(&[0; HEADER])?;
                Form::Plain { format, file, keys: None }
            }
            None => return Err(invalid("its name must end in .npy, .safetensors or .parquet")),
        };
        Ok(Self { width, parts: Vec::new(), form })
    }

    #[cfg(feature = "parquet")]
    fn create_parquet(path: &Path) -> io::Result<Form> {
        Ok(Form::Parquet { file: Partial::create(path)?, writer: None })
    }

    #[cfg(not(feature = "parquet"))]
    fn create_parquet(_: &Path) -> io::Result<Form> {
        Err(invalid("this build has no support for Parquet (the Cargo feature `parquet`)"))
    }

    /// Begins a matrix.
    ///
    /// # Errors
    /// A second one in a `.npy` or `.parquet` file, which has one.
    pub fn begin(&mut self, part: Part) -> io::Result<()> {
        match &mut self.form {
            Form::Plain { format: Format::Safetensors, .. } => {}
            _ if self.parts.is_empty() => {}
            _ => return Err(invalid("it can have one matrix; use .safetensors for images and texts together")),
        }
        match &mut self.form {
            Form::Plain { file, keys, .. } if part == Part::Images => {
                *keys = Some(Partial::create(&keys_path(&file.path))?);
            }
            Form::Plain { .. } => {}
            #[cfg(feature = "parquet")]
            Form::Parquet { file, writer } => {
                *writer = Some(ParquetFile::create(file.file.get_ref().try_clone()?, self.width, part)?);
            }
        }
        self.parts.push((part, 0));
        Ok(())
    }

    /// Appends rows, `[names, width]`, to the last matrix; `names`: the keys of images, or the texts; `shards`: those
    /// of images, for Parquet.
    ///
    /// # Errors
    /// If they cannot be written.
    #[cfg_attr(not(feature = "parquet"), expect(unused_variables, reason = "only Parquet has a column of shards"))]
    pub fn rows<S: AsRef<str>>(&mut self, names: &[S], shards: &[String], rows: &[f32]) -> io::Result<()> {
        let Some((part, count)) = self.parts.last_mut() else {
            return Err(invalid("no matrix was begun"));
        };
        *count += names.len();
        match &mut self.form {
            Form::Plain { file, keys, .. } => {
                if let (Part::Images, Some(keys)) = (part, keys) {
                    // A line per key, whatever is in it.
                    let line = |name: &S| writeln!(keys.file, "{}", name.as_ref().replace(['\n', '\r'], " "));
                    names.iter().try_for_each(line)?;
                }
                rows.iter().try_for_each(|value| file.file.write_all(&value.to_le_bytes()))
            }
            #[cfg(feature = "parquet")]
            Form::Parquet { writer, .. } => {
                let shards = shards.iter().map(String::as_str).chain(std::iter::repeat(""));
                let texts = names.iter().zip(shards).map(|(name, shard)| [name.as_ref(), shard]);
                writer.as_mut().map_or(Ok(()), |writer| writer.rows(texts, rows))
            }
        }
    }

    /// Writes the header, and gives the file its name.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(self) -> io::Result<()> {
        match self.form {
            Form::Plain { format, mut file, keys } => {
                let header = header(format, self.width, &self.parts);
                file.file.seek(SeekFrom::Start(0))?;
                file.file.write_all(&header)?;
                match keys {
                    Some(keys) => keys.finish()?,
                    // Those of a file that had this name before.
                    None => remove(&keys_path(&file.path))?,
                }
                file.finish()
            }
            #[cfg(feature = "parquet")]
            Form::Parquet { file, writer } => {
                writer.map_or(Ok(()), ParquetFile::finish)?;
                file.finish()
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

fn header(format: Format, width: usize, parts: &[(Part, usize)]) -> Vec<u8> {
    let (start, text) = match format {
        Format::Npy => {
            let rows = parts.first().map_or(0, |(_, rows)| *rows);
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
            // Version 1.0, then the header's length.
            let length = (HEADER - 10) as u16;
            ([b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes()].concat(), text)
        }
        Format::Safetensors | Format::Parquet => {
            let mut at = 0;
            let tensor = |(part, rows): &(Part, usize)| {
                let (begin, end) = (at, at + 4 * rows * width);
                at = end;
                let value = serde_json::json!({"dtype": "F32", "shape": [*rows, width], "data_offsets": [begin, end]});
                (part.name().to_owned(), value)
            };
            let tensors: serde_json::Map<_, _> = parts.iter().map(tensor).collect();
            (((HEADER - 8) as u64).to_le_bytes().to_vec(), serde_json::Value::Object(tensors).to_string())
        }
    };
    let mut header = [start, text.into_bytes()].concat();
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn both_formats_are_those_of_their_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut file = MatrixFile::create(&path, 2).unwrap();
        file.begin(Part::Images).unwrap();
        file.rows(&["cat"], &[], &[1.0, 2.0]).unwrap();
        file.rows(&["a\nb"], &[], &[3.0, 4.0]).unwrap();
        file.begin(Part::Texts).unwrap();
        file.rows(&["a dog"], &[], &[5.0, 6.0]).unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let images = read.tensor("images").unwrap();
        assert_eq!((images.shape(), images.data()[12..].to_vec()), (&[2, 2][..], 4f32.to_le_bytes().to_vec()));
        assert_eq!(read.tensor("texts").unwrap().data()[..4], 5f32.to_le_bytes());
        assert_eq!(fs::read_to_string(keys_path(&path)).unwrap(), "cat\na b\n");

        let path = folder.path().join("a.npy");
        let mut file = MatrixFile::create(&path, 3).unwrap();
        assert!(file.rows(&NONE, &[], &[]).is_err());
        file.begin(Part::Texts).unwrap();
        file.rows(&["x", "y"], &[], &[0.5; 6]).unwrap();
        fs::write(keys_path(&path), "of other rows\n").unwrap();
        assert!(file.begin(Part::Images).is_err());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..10]), (HEADER + 24, &b"\x93NUMPY\x01\x00\xF6\x03"[..]));
        assert!(String::from_utf8_lossy(&bytes[10..HEADER]).contains("'shape': (2, 3), }"));

        assert!(MatrixFile::create(&folder.path().join("a.txt"), 3).is_err());
        assert!(MatrixFile::create(folder.path(), 3).is_err());
        drop(MatrixFile::create(&path, 3).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
