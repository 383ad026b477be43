//! Embeddings in Parquet: a row each, with the columns `key` and `shard`, or `text` (UTF-8), and `embedding` (a
//! list of floats).

use std::fs::File;
use std::io;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use ::parquet::schema::types::ColumnPath;

use super::Part;

/// Size of a row group, which is kept in memory until it is written.
const GROUP_BYTES: usize = 16 << 20;

/// A file that is written a row group at a time.
pub(super) struct ParquetFile {
    writer: SerializedFileWriter<File>,
    width: usize,
    /// The columns of texts.
    texts: Vec<Vec<ByteArray>>,
    values: Vec<f32>,
}

impl ParquetFile {
    pub(super) fn create(file: File, width: usize, part: Part) -> io::Result<Self> {
        let columns: &[&str] = match part {
            Part::Images => &["key", "shard"],
            Part::Texts => &["text"],
        };
        let texts: String = columns.iter().map(|name| format!("required binary {name} (STRING);\n")).collect();
        let schema = format!(
            "message embeddings {{
                {texts}
                required group embedding (LIST) {{ repeated group list {{ required float element; }} }}
            }}"
        );
        let schema = Arc::new(parse_message_type(&schema).map_err(error)?);
        // Floats repeat too rarely for a dictionary, and do not compress.
        let embedding = ColumnPath::from(["embedding", "list", "element"].map(str::to_owned).to_vec());
        let properties = WriterProperties::builder()
            .set_created_by(concat!("flipk ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::SNAPPY)
            .set_column_compression(embedding.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(embedding, false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(error)?;
        Ok(Self { writer, width, texts: vec![Vec::new(); columns.len()], values: Vec::new() })
    }

    /// Appends rows, `[rows, width]`, with the texts of each.
    pub(super) fn rows<'a>(&mut self, texts: impl Iterator<Item = [&'a str; 2]>, rows: &[f32]) -> io::Result<()> {
        for texts in texts {
            self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.push(ByteArray::from(text)));
        }
        self.values.extend_from_slice(rows);
        if size_of_val(self.values.as_slice()) < GROUP_BYTES {
            return Ok(());
        }
        self.flush().map_err(error)
    }

    fn flush(&mut self) -> Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for texts in &self.texts {
            if let Some(mut column) = group.next_column()? {
                column.typed::<ByteArrayType>().write_batch(texts, None, None)?;
                column.close()?;
            }
        }
        if let Some(mut column) = group.next_column()? {
            // A value starts a row (0) or continues it (1); all are there.
            let starts: Vec<i16> = (0..self.values.len()).map(|at| i16::from(at % self.width != 0)).collect();
            let levels = vec![1; self.values.len()];
            column.typed::<FloatType>().write_batch(&self.values, Some(&levels), Some(&starts))?;
            column.close()?;
        }
        group.close()?;
        self.texts.iter_mut().for_each(Vec::clear);
        self.values.clear();
        Ok(())
    }

    /// Writes what is left, and the footer.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush().and_then(|()| self.writer.close()).map(drop).map_err(error)
    }
}

/// The error of the system where there is one.
fn error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}
