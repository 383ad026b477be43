//! The value of a column in one row.

use ::parquet::data_type::ByteArray;

/// The value of a column in one row.
#[derive(Debug)]
pub(super) enum Cell {
    Null,
    /// Bytes or text.
    Bytes(ByteArray),
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    List(Vec<ByteArray>),
}
