//! Embeddings in a file, written row by row: NumPy's `.npy`, or safetensors.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes before the numbers. Both formats allow spaces after a header, whose lengths are only known at the end.
const HEADER: usize = 1024;

/// The formats of such a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Safetensors,
}

/// Matrices of f32 in a file that appears when it is complete.
pub struct MatrixFile {
    path: PathBuf,
    partial: PathBuf,
    format: Format,
    file: BufWriter<File>,
    width: usize,
    /// Names and rows of the matrices; the last one grows.
    parts: Vec<(&'static str, usize)>,
    done: bool,
}

impl MatrixFile {
    /// Begins the file; rows have `width` numbers. The format is that of the name: `.npy` or `.safetensors`.
    ///
    /// # Errors
    /// Another ending, or a file that cannot be created.
    pub fn create(path: &Path, width: usize) -> io::Result<Self> {
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Format::Npy,
            Some("safetensors") => Format::Safetensors,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name must end in .npy or .safetensors")),
        };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut file = BufWriter::new(File::create(&partial)?);
        file.write_all(&[0; HEADER])?;
        Ok(Self { path: path.to_owned(), partial, format, file, width, parts: Vec::new(), done: false })
    }

    /// Begins a matrix.
    ///
    /// # Errors
    /// A second one in a `.npy` file, which has one.
    pub fn begin(&mut self, name: &'static str) -> io::Result<()> {
        if self.format == Format::Npy && !self.parts.is_empty() {
            let problem = "a .npy file has one matrix; use .safetensors for images and texts together";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        self.parts.push((name, 0));
        Ok(())
    }

    /// Appends rows, `[rows, width]`, to the last matrix.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn rows(&mut self, rows: &[f32]) -> io::Result<()> {
        if let Some((_, count)) = self.parts.last_mut() {
            *count += rows.len() / self.width;
        }
        rows.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()))
    }

    /// Writes the header, and gives the file its name.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(mut self) -> io::Result<()> {
        let header = self.header();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.done = true;
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let (start, text) = match self.format {
            Format::Npy => {
                let rows = self.parts.first().map_or(0, |(_, rows)| *rows);
                let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {}), }}", self.width);
                // Version 1.0, then the header's length.
                let length = (HEADER - 10) as u16;
                ([b"\x93NUMPY\x01\x00".as_slice(), &length.to_le_bytes()].concat(), text)
            }
            Format::Safetensors => {
                let mut at = 0;
                let part = |(name, rows): &(&str, usize)| {
                    let (begin, end) = (at, at + 4 * rows * self.width);
                    at = end;
                    let shape = [*rows, self.width];
                    let value = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
                    ((*name).to_owned(), value)
                };
                let tensors: serde_json::Map<_, _> = self.parts.iter().map(part).collect();
                (((HEADER - 8) as u64).to_le_bytes().to_vec(), serde_json::Value::Object(tensors).to_string())
            }
        };
        let mut header = [start, text.into_bytes()].concat();
        header.resize(HEADER - 1, b' ');
        header.push(b'\n');
        header
    }
}

impl Drop for MatrixFile {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays only takes up space.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_those_of_their_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let mut file = MatrixFile::create(&path, 2).unwrap();
        file.begin("images").unwrap();
        file.rows(&[1.0, 2.0]).unwrap();
        file.rows(&[3.0, 4.0]).unwrap();
        file.begin("texts").unwrap();
        file.rows(&[5.0, 6.0]).unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let images = read.tensor("images").unwrap();
        assert_eq!((images.shape(), images.data()[12..].to_vec()), (&[2, 2][..], 4f32.to_le_bytes().to_vec()));
        assert_eq!(read.tensor("texts").unwrap().data()[..4], 5f32.to_le_bytes());

        let path = folder.path().join("a.npy");
        let mut file = MatrixFile::create(&path, 3).unwrap();
        file.begin("texts").unwrap();
        file.rows(&[0.5; 6]).unwrap();
        assert!(file.begin("images").is_err());
        file.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..10]), (HEADER + 24, &b"\x93NUMPY\x01\x00\xF6\x03"[..]));
        assert!(String::from_utf8_lossy(&bytes[10..HEADER]).contains("'shape': (2, 3), }"));

        assert!(MatrixFile::create(&folder.path().join("a.txt"), 3).is_err());
        drop(MatrixFile::create(&path, 3).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
