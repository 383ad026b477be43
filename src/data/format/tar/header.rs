//! One block of a tar archive: a member's header, and the records of extension headers.

pub(crate) const BLOCK: usize = 512;
/// Bytes of a name in a header.
pub(crate) const NAME: usize = 100;

/// Why a block is not a header, or why it cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("its last header is cut after {0} of {size} bytes", size = BLOCK)]
    Cut(usize),
    #[error("its header has no checksum")]
    NoChecksum,
    #[error("the checksum of its header is {found}, not {stated} as the header says")]
    Checksum { found: u64, stated: u64 },
    #[error("its header has no size")]
    NoSize,
    #[error("an extension header has no end")]
    Extension,
    #[error("a member of {0} bytes goes beyond the archive's end")]
    BeyondEnd(u64),
    #[error("there are zeros where a header should be")]
    Zeros,
}

pub(crate) struct Header {
    /// With the prefix of POSIX archives.
    pub(crate) name: Vec<u8>,
    /// Bytes of the member, which begin after the header.
    pub(crate) size: u64,
    pub(super) kind: u8,
    /// What a link points to.
    pub(super) link: Vec<u8>,
    /// Whether further blocks of an old GNU sparse map follow.
    pub(super) sparse_map: bool,
}

impl Header {
    /// # Errors
    /// Why `block` is not a header.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, HeaderError> {
        if block.len() < BLOCK {
            return Err(HeaderError::Cut(block.len()));
        }
        let stated = number(&block[148..156]).ok_or(HeaderError::NoChecksum)?;
        let blank = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
        // Some old programs summed signed bytes.
        let found: u64 = block.iter().enumerate().map(|pair| u64::from(blank(pair))).sum();
        let signed: i64 = block.iter().enumerate().map(|pair| i64::from(blank(pair) as i8)).sum();
        if stated != found && stated as i64 != signed {
            return Err(HeaderError::Checksum { found, stated });
        }
        let size = &block[124..136];
        // GNU tar leaves it blank in the label of a volume (`tar -V`).
        let is_blank = size.iter().all(|byte| matches!(byte, b' ' | 0));
        let size = if is_blank { 0 } else { number(size).ok_or(HeaderError::NoSize)? };
        let (name, prefix) = (text(&block[..NAME]), text(&block[345..500]));
        // GNU archives (`ustar  `) have other fields where POSIX ones have the prefix.
        let posix = &block[257..263] == b"ustar\0" && !prefix.is_empty();
        let name = if posix { [prefix, name].join(&b'/') } else { name.to_owned() };
        let kind = block[156];
        let sparse_map = kind == b'S' && block[482] != 0;
        Ok(Self { name, size, kind, link: text(&block[157..257]).to_owned(), sparse_map })
    }
}

/// A header in GNU's format, for a packed shard. A name is cut to the bytes that fit; `padding` goes behind the fields,
/// where other programs write zeros.
pub(crate) fn write(name: &[u8], kind: u8, size: u64, padding: &[u8]) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut field = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    field(0, &name[..name.len().min(NAME)]);
    for (at, value) in [(100, 0o644), (108, 0), (116, 0)] {
        field(at, format!("{value:07o}\0").as_bytes());
    }
    field(124, format!("{size:011o}\0").as_bytes());
    field(136, format!("{:011o}\0", 0).as_bytes());
    field(148, &[b' '; 8]);
    field(156, &[kind]);
    field(257, b"ustar  \0");
    field(BLOCK - padding.len(), padding);
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|&byte| byte == 0).map_or(field, |end| &field[..end])
}

/// An octal number, or a big-endian one if the highest bit of the first byte is set (GNU).
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7F);
        return field[1..].iter().try_fold(first, |n, &byte| n.checked_mul(256)?.checked_add(u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(digits, 8).ok()
}

/// The records `LENGTH KEY=VALUE\n` of a pax header; stops at the first that is malformed.
pub(super) fn pax_records(mut records: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some(space) = records.iter().position(|&byte| byte == b' ') {
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|length| length.parse::<usize>().ok());
        let Some(record) = length.and_then(|length| records.get(space + 1..length)) else { break };
        let Some(equals) = record.iter().position(|&byte| byte == b'=') else { break };
        found.push((&record[..equals], record[equals + 1..].strip_suffix(b"\n").unwrap_or(&record[equals + 1..])));
        records = &records[space + 1 + record.len()..];
    }
    found
}
