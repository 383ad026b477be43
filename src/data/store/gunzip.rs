//! Gzip files of several members, as made by `cat a.gz b.gz` and parallel compressors.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Unpacks the members of a gzip file one after the other. Zeros between and after them are skipped, as `gzip` and
/// Python do.
pub(crate) struct Gunzip<R> {
    /// `None` only while a member is replaced by the next.
    member: Option<GzDecoder<R>>,
    is_first: bool,
}

impl<R: BufRead> Gunzip<R> {
    pub(crate) fn new(packed: R) -> Self {
        Self { member: Some(GzDecoder::new(packed)), is_first: true }
    }

    /// After an error: whether it comes from bytes after a whole member that are not gzip.
    pub(crate) fn is_trailing(&self) -> bool {
        !self.is_first && self.member.as_ref().is_none_or(|member| member.header().is_none())
    }

    /// The packed bytes.
    pub(crate) fn get_mut(&mut self) -> Option<&mut R> {
        self.member.as_mut().map(GzDecoder::get_mut)
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else { return Ok(0) };
            let read = member.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            if !skip_zeros(member.get_mut())? {
                return Ok(0);
            }
            self.is_first = false;
            self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner()));
        }
    }
}

/// Whether anything follows the zeros.
fn skip_zeros(from: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = from.fill_buf()?;
        let (zeros, len) = (bytes.iter().take_while(|&&byte| byte == 0).count(), bytes.len());
        from.consume(zeros);
        if zeros < len || len == 0 {
            return Ok(len > 0);
        }
    }
}
