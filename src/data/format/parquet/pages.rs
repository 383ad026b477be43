//! The pages of a column. The crate `parquet` makes room for as many values as a page states, before it sees that they
//! are not there; here, a damaged number is an error first.

use ::parquet::basic::{Encoding, Type};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::ColumnDescPtr;

use super::Source;

/// Values of a column of lists in a row group; the levels of a row are in memory at once.
pub(super) const MAX_IN_LISTS: usize = 1 << 26;

/// The pages of a column of a row group.
pub(super) struct Pages {
    pages: SerializedPageReader<Source>,
    column: ColumnDescPtr,
    /// How many values may still come.
    left: usize,
}

impl Pages {
    /// `rows`: those of the row group.
    pub(super) fn new(pages: SerializedPageReader<Source>, column: ColumnDescPtr, rows: usize) -> Self {
        let left = if column.max_rep_level() == 0 { rows } else { MAX_IN_LISTS };
        Self { pages, column, left }
    }

    fn check(&mut self, page: &Page) -> Result<()> {
        let values = page.num_values() as usize;
        if let Page::DictionaryPage { buf, .. } = page {
            let smallest = match self.column.physical_type() {
                Type::BOOLEAN => return Err(damaged("a dictionary of true and false")),
                Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
                Type::INT64 | Type::DOUBLE => 8,
                Type::INT96 => 12,
                Type::FIXED_LEN_BYTE_ARRAY => self.column.type_length().max(1) as usize,
            };
            return (values <= buf.len() / smallest).then_some(()).ok_or_else(|| damaged("the size of a dictionary"));
        }
        self.left = self.left.checked_sub(values).ok_or_else(|| damaged("the number of values in a page"))?;
        let lists_of_lengths = match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            Encoding::DELTA_BYTE_ARRAY => 2,
            _ => 0,
        };
        let mut data = if lists_of_lengths > 0 { self.values(page)? } else { &[] };
        for _ in 0..lists_of_lengths {
            let (lengths, rest) = packed(data).ok_or_else(|| damaged("the lengths of values"))?;
            if lengths > values as u64 {
                return Err(damaged("the number of lengths in a page"));
            }
            data = rest;
        }
        Ok(())
    }

    /// The part of a data page behind the levels.
    fn values<'a>(&self, page: &'a Page) -> Result<&'a [u8]> {
        let values = match page {
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize);
                buf.get(levels..)
            }
            Page::DataPage { buf, def_level_encoding, rep_level_encoding, .. } => {
                let levels = [
                    (self.column.max_rep_level(), rep_level_encoding),
                    (self.column.max_def_level(), def_level_encoding),
                ];
                levels.iter().filter(|(max, _)| *max > 0).try_fold(&buf[..], |rest, (_, encoding)| {
                    let (length, rest) = rest.split_first_chunk().filter(|_| **encoding == Encoding::RLE)?;
                    rest.get(u32::from_le_bytes(*length) as usize..)
                })
            }
            Page::DictionaryPage { .. } => None,
        };
        values.ok_or_else(|| damaged("the levels of a page"))
    }
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(format!("{what} cannot be right"))
}

/// How many integers a list in the encoding DELTA_BINARY_PACKED has, and what is behind it. See [its definition][1].
///
/// [1]: https://parquet.apache.org/docs/file-format/data-pages/encodings/
fn packed(mut data: &[u8]) -> Option<(u64, &[u8])> {
    let of = &mut data;
    let (block, minis, total) = (varint(of)?, varint(of)?, varint(of)?);
    varint(of)?;
    let per_mini = block.checked_div(minis)?;
    // The first one is in the header.
    let mut left = total.saturating_sub(1);
    while left > 0 {
        varint(of)?;
        let (widths, rest) = of.split_at_checked(usize::try_from(minis).ok()?)?;
        *of = rest;
        for width in widths {
            if left == 0 {
                break;
            }
            let bytes = u64::from(*width).checked_mul(per_mini)?.div_ceil(8);
            *of = of.get(usize::try_from(bytes).ok()?..)?;
            left = left.saturating_sub(per_mini.max(1));
        }
    }
    Some((total, data))
}

/// The next integer in LEB128.
pub(super) fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.check(&page).map(|()| page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}
