//! Parquet files by the writer of the crate `parquet`.

use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;

/// The values of one column of a row group.
pub(crate) enum Values {
    Bytes(Vec<Option<Vec<u8>>>),
    /// All of one length.
    Fixed(Vec<Option<Vec<u8>>>),
    Ints(Vec<Option<i64>>),
    Floats(Vec<Option<f64>>),
    /// A repeated column.
    Lists(Vec<Vec<&'static str>>),
}

impl Values {
    pub(crate) fn texts(texts: &[&str]) -> Self {
        Self::Bytes(texts.iter().map(|text| Some(text.as_bytes().to_vec())).collect())
    }
}

/// A file with columns of these types; each row group has all of them.
pub(crate) fn file(columns: &str, compression: Compression, groups: Vec<Vec<Values>>) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message table {{ {columns} }}")).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for group in groups {
        let mut row_group = writer.next_row_group().unwrap();
        for values in group {
            match values {
                Values::Bytes(bytes) => {
                    let bytes = bytes.into_iter().map(|bytes| bytes.map(ByteArray::from));
                    column::<ByteArrayType>(&mut row_group, bytes.collect());
                }
                Values::Fixed(bytes) => {
                    let bytes = bytes.into_iter().map(|bytes| bytes.map(Into::into));
                    column::<FixedLenByteArrayType>(&mut row_group, bytes.collect());
                }
                Values::Ints(ints) => column::<Int64Type>(&mut row_group, ints),
                Values::Floats(floats) => column::<DoubleType>(&mut row_group, floats),
                Values::Lists(lists) => repeated(&mut row_group, &lists),
            }
        }
        row_group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn column<T: DataType>(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, values: Vec<Option<T::T>>) {
    let mut column = group.next_column().unwrap().unwrap();
    let full = column.typed::<T>().get_descriptor().max_def_level();
    let levels: Vec<i16> = values.iter().map(|value| if value.is_some() { full } else { full - 1 }).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
}

fn repeated(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, lists: &[Vec<&str>]) {
    let mut column = group.next_column().unwrap().unwrap();
    // The level of an empty list says that there is no value.
    let levels = lists.iter().flat_map(|list| (0..list.len().max(1)).map(|at| (i16::from(!list.is_empty()), at)));
    let (full, starts): (Vec<i16>, Vec<i16>) = levels.map(|(full, at)| (full, i16::from(at > 0))).unzip();
    let texts: Vec<ByteArray> = lists.iter().flatten().map(|text| ByteArray::from(*text)).collect();
    column.typed::<ByteArrayType>().write_batch(&texts, Some(&full), Some(&starts)).unwrap();
    column.close().unwrap();
}
