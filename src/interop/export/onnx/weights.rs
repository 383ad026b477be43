//! Weights inside a model's file, or beside it where they would exceed what a protobuf message can hold.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use super::super::super::NewFolder;
use super::proto::{self, DataLocation, DataType};

/// Where a tensor starts in a file of weights is a multiple of this, so that it can be mapped on any system (ONNX's
/// advice for `external_data`). Smaller tensors stay in the model's file.
const ALIGNMENT: u64 = 1 << 16;

/// A file of weights.
pub(super) struct External {
    location: String,
    file: File,
    end: u64,
}

impl External {
    /// Creates the file `location` in the folder.
    ///
    /// # Errors
    /// If it cannot be created.
    pub(super) fn create(folder: &NewFolder, location: String) -> io::Result<Self> {
        let file = File::create(folder.file(&location))?;
        Ok(Self { location, file, end: 0 })
    }

    /// Its name.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Appends `bytes` and returns where they are.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let start = self.end.next_multiple_of(ALIGNMENT);
        self.file.seek(SeekFrom::Start(start))?;
        self.file.write_all(bytes)?;
        self.end = start + bytes.len() as u64;
        Ok(start)
    }

    /// Closes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The initializer `name`, whose `bytes` go to `external` if that is there and they are many.
///
/// # Errors
/// If `external` cannot be written.
pub(super) fn tensor(
    name: &str,
    shape: &[usize],
    data_type: DataType,
    bytes: Vec<u8>,
    external: Option<&mut External>,
) -> io::Result<proto::Tensor> {
    let mut tensor = proto::Tensor {
        dims: shape.iter().map(|&extent| extent as i64).collect(),
        data_type: data_type.into(),
        name: name.to_owned(),
        ..proto::Tensor::default()
    };
    match external.filter(|_| bytes.len() as u64 >= ALIGNMENT) {
        None => tensor.raw_data = bytes,
        Some(external) => {
            let offset = external.append(&bytes)?;
            let entry = |key: &str, value: String| proto::Entry { key: key.to_owned(), value };
            tensor.data_location = DataLocation::External.into();
            tensor.external_data = vec![
                entry("location", external.location.clone()),
                entry("offset", offset.to_string()),
                entry("length", bytes.len().to_string()),
            ];
        }
    }
    Ok(tensor)
}
