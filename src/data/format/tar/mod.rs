//! The index of a tar archive: which bytes belong to which member.
//!
//! It reads ustar (POSIX.1-1988, with the name prefix), the `path`, `size` and `linkpath` records of pax headers
//! (POSIX.1-2001), GNU long names (types `L`, `K`) and base-256 sizes. Links within the archive are followed.
//!
//! Indexing does not stop at the end mark, since archives may have been joined with `cat`. After a damaged header it
//! continues at the next good one.

mod header;
mod links;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU64;

pub(crate) use self::header::{BLOCK, Header, HeaderError, NAME, write as header};
use self::header::{pax_records, text};
use crate::data::store::{ReadAt, Span, fill_from};

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) content: Content,
}

/// Where a member's bytes are, or why there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Data(Span),
    /// A link to something that is not in the archive.
    DanglingLink(Box<[u8]>),
    /// Its last bytes are missing; says where it is cut.
    Cut(String),
    /// It is stored in a way that flipk does not read; says how.
    Unread(&'static str),
}

/// What is wrong with an archive as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bytes that belong to no member, because something is wrong with the header at their beginning.
    Lost { at: u64, bytes: u64, problem: HeaderError, members_before: usize },
    /// It ends after a whole member, without the blocks of zeros that mark the end.
    NoEnd,
    /// Bytes after the end mark that are not an archive.
    Trailing { bytes: u64 },
    /// More zeros after the end mark than any program pads with.
    Zeros { bytes: u64 },
}

/// The members of an archive in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    pub(crate) members: Vec<Member>,
    pub(crate) faults: Vec<Fault>,
}

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    /// No header was found; what is wrong with the first block.
    #[error(transparent)]
    NotTar(HeaderError),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// GNU tar pads archives to 10 KiB, tape writers to a MiB at most.
const PADDING: u64 = 1 << 20;
/// How far to search for the first header, if the archive does not begin with one.
const FIRST_HEADER_WITHIN: u64 = 64 << 20;
/// An extension header that is larger is damaged.
const MAX_EXTENSION: u64 = 1 << 20;
/// Bytes read at once while searching; fewer at first, since a header is usually near.
const SEARCH_STEP: usize = 1 << 20;
const FIRST_SEARCH_STEP: usize = 16 << 10;

/// Indexes an archive; a truncated or damaged one by its intact members and its [`Fault`]s.
///
/// # Errors
/// If it is not a tar archive or cannot be read.
pub(crate) fn index<R: ReadAt + ?Sized>(archive: &R) -> Result<Index, TarError> {
    let mut walk =
        Walk { window: Window::new(archive), end: archive.len(), index: Index::default(), pending: Pending::default() };
    walk.run()?;
    links::resolve(&mut walk.index.members);
    Ok(walk.index)
}

/// Whether an archive can begin with `head`: with a header, or with an end mark.
pub(crate) fn is_start(head: &[u8]) -> bool {
    let block = &head[..head.len().min(BLOCK)];
    Header::parse(block).is_ok() || block.iter().all(|&byte| byte == 0)
}

/// What extension headers say about the member after them.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

struct Walk<'a, R: ReadAt + ?Sized> {
    window: Window<'a, R>,
    end: u64,
    index: Index,
    pending: Pending,
}

impl<R: ReadAt + ?Sized> Walk<'_, R> {
    fn run(&mut self) -> Result<(), TarError> {
        let (mut at, mut ended) = (0, false);
        while at < self.end {
            let block = self.window.block(at)?;
            if block.iter().all(|&byte| byte == 0) {
                // Less than a block is a truncated end mark.
                ended = block.len() == BLOCK;
                match self.after_end(at)? {
                    Some(next) => (at, ended) = (next, false),
                    None => break,
                }
                continue;
            }
            // The last header may be truncated after the name.
            let name = (block.len() < BLOCK && at > 0).then(|| text(block)).filter(|name| name.len() < block.len());
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                let name = self.pending.name.take().unwrap_or_else(|| name.to_owned());
                let content = Content::Cut(format!("cut in its header, at byte {}", self.end));
                self.index.members.push(Member { name, content });
                break;
            }
            let lost = match Header::parse(block) {
                Ok(header) => match self.member(header, at)? {
                    Ok(next) => {
                        at = next;
                        continue;
                    }
                    Err(problem) => problem,
                },
                Err(problem) if at == 0 => match self.find_header(BLOCK as u64, BLOCK as u64, FIRST_HEADER_WITHIN)? {
                    Some(_) => problem,
                    None => return Err(TarError::NotTar(problem)),
                },
                Err(problem) => problem,
            };
            // The fault is reported, not the missing end mark.
            ended = true;
            let next = self.find_header(at + 1, at, u64::MAX)?;
            self.lose(at, next.unwrap_or(self.end), lost);
            match next {
                Some(next) => (at, ended) = (next, false),
                None => break,
            }
        }
        if !ended && !matches!(self.index.members.last(), Some(Member { content: Content::Cut(_), .. })) {
            self.index.faults.push(Fault::NoEnd);
        }
        Ok(())
    }

    /// Adds the member whose header is at `at`. Returns where the next header is, or what is wrong with this one.
    fn member(&mut self, header: Header, at: u64) -> io::Result<Result<u64, HeaderError>> {
        let mut start = at + BLOCK as u64;
        let is_extension = matches!(header.kind, b'L' | b'K' | b'x' | b'g');
        if is_extension {
            if header.size > MAX_EXTENSION || start + header.size > self.end {
                return Ok(Err(HeaderError::Extension));
            }
            self.extension(header.kind, start, header.size as usize)?;
            return Ok(Ok(start + padded(header.size)));
        }
        let pending = std::mem::take(&mut self.pending);
        if header.sparse_map {
            // Each block of the map says whether another follows.
            while start < self.end && self.window.block(start)?.get(504).is_some_and(|&more| more != 0) {
                start += BLOCK as u64;
            }
            start += BLOCK as u64;
        }
        // Links, devices and folders (1-6) have no data, whatever their size field says.
        let without_data = matches!(header.kind, b'1'..=b'6');
        let size = if without_data { 0 } else { pending.size.unwrap_or(header.size) };
        let name = pending.name.unwrap_or(header.name);
        let content = match (start.checked_add(size).filter(|&end| end <= self.end), header.kind) {
            (None, _) => {
                let has = self.end.saturating_sub(start);
                // If another header follows, the size is damaged, and would swallow the rest of the archive.
                if let Some(next) = self.find_header(start, start, u64::MAX)? {
                    self.lose(at, next, HeaderError::BeyondEnd(size));
                    return Ok(Ok(next));
                }
                Content::Cut(format!("cut after {has} of {size} bytes, at byte {}", self.end))
            }
            (_, b'1' | b'2') => {
                let target = pending.link.unwrap_or(header.link);
                let target = if header.kind == b'2' { links::target_path(&name, &target) } else { target };
                Content::DanglingLink(target.into())
            }
            (_, b'3'..=b'6') => return Ok(Ok(start)),
            (_, b'S') => Content::Unread("it is stored as a sparse file"),
            (_, _) if pending.sparse => Content::Unread("it is stored as a sparse file"),
            // POSIX reads unknown types as regular files; these types of GNU tar are not files.
            (Some(_), b'V' | b'M' | b'D' | b'N') => return Ok(Ok(start + padded(size))),
            (Some(_), _) => match NonZeroU64::new(start) {
                Some(start) => Content::Data(Span { start, len: size }),
                None => return Ok(Ok(start)),
            },
        };
        // Old archives mark folders by a trailing slash.
        if !name.ends_with(b"/") {
            self.index.members.push(Member { name, content });
        }
        // A truncated member ends with the archive.
        Ok(Ok(start.saturating_add(padded(size.min(self.end)))))
    }

    fn extension(&mut self, kind: u8, start: u64, size: usize) -> io::Result<()> {
        let mut data = vec![0; size];
        self.window.from.read_at(&mut data, start)?;
        match kind {
            b'L' => self.pending.name = Some(text(&data).to_owned()),
            b'K' => self.pending.link = Some(text(&data).to_owned()),
            b'x' => {
                for (key, value) in pax_records(&data) {
                    match key {
                        b"path" => self.pending.name = Some(value.to_owned()),
                        b"linkpath" => self.pending.link = Some(value.to_owned()),
                        b"size" => {
                            self.pending.size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                        }
                        b"GNU.sparse.name" => {
                            (self.pending.name, self.pending.sparse) = (Some(value.to_owned()), true);
                        }
                        key if key.starts_with(b"GNU.sparse.") => self.pending.sparse = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks past the end mark at `mark`. Returns where a joined archive begins, if there is one.
    fn after_end(&mut self, mark: u64) -> io::Result<Option<u64>> {
        self.pending = Pending::default();
        let mut buffer = vec![0; FIRST_SEARCH_STEP];
        let mut at = mark;
        while at < self.end {
            let bytes = fill_from(self.window.from, &mut buffer, at)?;
            if let Some(first) = bytes.iter().position(|&byte| byte != 0) {
                let found = at + first as u64;
                return self.joined(mark, found);
            }
            at += bytes.len() as u64;
            buffer.resize(SEARCH_STEP, 0);
        }
        if self.end - mark > PADDING {
            self.index.faults.push(Fault::Zeros { bytes: self.end - mark });
        }
        Ok(None)
    }

    /// Where the next archive begins. `found` is the first byte that is not 0, after zeros from `mark` on.
    fn joined(&mut self, mark: u64, found: u64) -> io::Result<Option<u64>> {
        let block = found - (found - mark) % BLOCK as u64;
        // So many zeros are a hole in the archive, not its end.
        let is_hole = found - mark > PADDING;
        let mut next = None;
        for place in [block, found] {
            if next.is_none() && Header::parse(self.window.block(place)?).is_ok() {
                next = Some(place);
            }
        }
        let follows = next.is_some();
        let next = match next {
            None => self.find_header(block, block, u64::MAX)?,
            next => next,
        };
        match next {
            Some(next) if is_hole || !follows => self.lose(mark, next, HeaderError::Zeros),
            Some(_) => {}
            None => self.index.faults.push(Fault::Trailing { bytes: self.end - found }),
        }
        Ok(next)
    }

    /// Records that the bytes from `at` to `next` are lost.
    fn lose(&mut self, at: u64, next: u64, problem: HeaderError) {
        self.pending = Pending::default();
        let members_before = self.index.members.len();
        self.index.faults.push(Fault::Lost { at, bytes: next - at, problem, members_before });
    }

    /// The first good header at or after `from`. It is a whole number of blocks away from `grid`, where the archive
    /// continues if bytes were overwritten; or anywhere, if it has ustar's magic: bytes may have been inserted or left
    /// out, or archives of odd lengths joined.
    fn find_header(&self, from: u64, grid: u64, within: u64) -> io::Result<Option<u64>> {
        let end = self.end.min(from.saturating_add(within));
        let phase = grid % BLOCK as u64 + BLOCK as u64;
        let mut buffer = vec![0; FIRST_SEARCH_STEP + BLOCK];
        let mut at = from;
        let magic = memchr::memmem::Finder::new(b"ustar");
        while at + BLOCK as u64 <= end {
            let bytes = fill_from(self.window.from, &mut buffer, at)?;
            let is_header = |place: usize| {
                let block = bytes.get(place..place + BLOCK);
                block.is_some_and(|block| Header::parse(block).is_ok())
            };
            let first_step = (phase - at % BLOCK as u64) as usize % BLOCK;
            let in_steps = (first_step..bytes.len()).step_by(BLOCK).find(|&place| is_header(place));
            let marks = magic.find_iter(bytes).filter_map(|mark| mark.checked_sub(257));
            let by_mark =
                marks.take_while(|&place| in_steps.is_none_or(|step| place < step)).find(|&place| is_header(place));
            if let Some(place) = by_mark.or(in_steps) {
                return Ok(Some(at + place as u64));
            }
            // The last bytes may be the first of a header.
            at += (bytes.len() - BLOCK + 1) as u64;
            buffer.resize(SEARCH_STEP + BLOCK, 0);
        }
        Ok(None)
    }
}

/// The size of a member with the zeros that fill its last block.
pub(crate) fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

/// A buffer of a few blocks: one read gets the header of a small member, its bytes and the next header.
struct Window<'a, R: ?Sized> {
    from: &'a R,
    at: u64,
    buffer: Vec<u8>,
    filled: usize,
}

const WINDOW: usize = 8 * BLOCK;

impl<'a, R: ReadAt + ?Sized> Window<'a, R> {
    fn new(from: &'a R) -> Self {
        Self { from, at: 0, buffer: vec![0; WINDOW], filled: 0 }
    }

    /// The block at `at`; shorter at the end of the archive.
    fn block(&mut self, at: u64) -> io::Result<&[u8]> {
        let wanted = (self.from.len().saturating_sub(at)).min(BLOCK as u64);
        if at < self.at || at + wanted > self.at + self.filled as u64 {
            self.filled = fill_from(self.from, &mut self.buffer, at)?.len();
            self.at = at;
        }
        let start = (at - self.at) as usize;
        let block = self.buffer[..self.filled].get(start..start + wanted as usize);
        block.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
