//! Zstandard files of several frames, as made by `cat a.zst b.zst` and parallel compressors.

use std::io::{self, BufRead, Chain, Cursor, Read};

use zstd::Decoder;

/// The beginning of a frame, as was read to recognise it, and the rest.
type Packed<R> = Chain<Cursor<[u8; 4]>, R>;

/// Unpacks the frames of a zstd file one after the other.
pub(crate) struct Unzstd<R: BufRead> {
    /// `None` at the end, and while a frame is replaced by the next.
    frame: Option<Decoder<'static, Packed<R>>>,
    /// What follows the last whole frame and is not another.
    trailing: Option<R>,
}

impl<R: BufRead> Unzstd<R> {
    /// # Errors
    /// If there is no memory for a decoder.
    pub(crate) fn new(packed: R) -> io::Result<Self> {
        // Without the first bytes read, `packed` is the first frame.
        let mut start = Cursor::new([0; 4]);
        start.set_position(4);
        let frame = Decoder::with_buffer(start.chain(packed))?.single_frame();
        Ok(Self { frame: Some(frame), trailing: None })
    }

    /// After an error: whether it comes from bytes after a whole frame that are not another.
    pub(crate) fn is_trailing(&self) -> bool {
        self.trailing.is_some()
    }

    /// The packed bytes.
    pub(crate) fn get_mut(&mut self) -> Option<&mut R> {
        self.frame.as_mut().map(|frame| frame.get_mut().get_mut().1).or(self.trailing.as_mut())
    }

    /// Goes to the next frame, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(mut packed) = self.frame.take().map(|frame| frame.finish().into_inner().1) else { return Ok(false) };
        let mut start = Vec::with_capacity(4);
        packed.by_ref().take(4).read_to_end(&mut start)?;
        match *start {
            [] => Ok(false),
            // A frame of data, or one to be skipped.
            [0x28, 0xB5, 0x2F, 0xFD] | [0x50..=0x5F, 0x2A, 0x4D, 0x18] => {
                let start = [start[0], start[1], start[2], start[3]];
                self.frame = Some(Decoder::with_buffer(Cursor::new(start).chain(packed))?.single_frame());
                Ok(true)
            }
            // Cut in the mark.
            [0x28] | [0x28, 0xB5] | [0x28, 0xB5, 0x2F] => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                self.trailing = Some(packed);
                Err(io::Error::other("what follows is not zstd"))
            }
        }
    }
}

impl<R: BufRead> Read for Unzstd<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(frame) = &mut self.frame else { return Ok(0) };
            let read = frame.read(into)?;
            if read > 0 || into.is_empty() || !self.advance()? {
                return Ok(read);
            }
        }
    }
}
