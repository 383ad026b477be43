//! The index of a tar archive in memory: which bytes belong to which member.
//!
//! Understood are ustar (POSIX.1-1988, with the name prefix), the `path` and `size` records of pax headers
//! (POSIX.1-2001), and GNU long names (type `L`) and base-256 sizes.

use std::ops::Range;

const BLOCK: usize = 512;

/// One regular file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// Its bytes, as a range of the archive's.
    pub data: Range<usize>,
}

/// The place from which an archive cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The member that is not whole; none if its header is not.
    pub name: Option<String>,
    pub problem: String,
}

/// The members of an archive in order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub members: Vec<Member>,
    pub cut: Option<Cut>,
}

/// Indexes `archive`. A cut or damaged archive gives the members before the damage and a [`Cut`].
///
/// # Errors
/// Says why, if not even the first header is that of a tar archive.
pub fn index(archive: &[u8]) -> Result<Index, String> {
    let mut index = Index::default();
    // Name and size told by an extension header for the member that follows it.
    let (mut long_name, mut long_size) = (None::<String>, None::<u64>);
    let mut at = 0;
    while at < archive.len() {
        let block = &archive[at..archive.len().min(at + BLOCK)];
        if block.iter().all(|&byte| byte == 0) {
            break;
        }
        let header = match Header::parse(block) {
            Ok(header) => header,
            Err(problem) if at == 0 => return Err(problem),
            Err(problem) => {
                index.cut = Some(Cut { name: long_name, problem: format!("{problem}, at byte {at}") });
                break;
            }
        };
        let start = at + BLOCK;
        let is_extension = matches!(header.kind, b'L' | b'K' | b'x' | b'g');
        let size = if is_extension { header.size } else { long_size.take().unwrap_or(header.size) };
        // Links, devices and folders (1-6) have no data, whatever their size field says.
        let size = if matches!(header.kind, b'1'..=b'6') { 0 } else { size };
        let whole = usize::try_from(size).ok().and_then(|size| start.checked_add(size));
        let Some(end) = whole.filter(|&end| end <= archive.len()) else {
            let name = if is_extension { None } else { Some(long_name.unwrap_or(header.name)) };
            let problem = format!("cut after {} of {size} bytes, at byte {}", archive.len() - start, archive.len());
            index.cut = Some(Cut { name, problem });
            break;
        };
        match header.kind {
            b'L' => long_name = Some(text(&archive[start..end])),
            b'x' => {
                for (key, value) in pax_records(&archive[start..end]) {
                    match key {
                        b"path" => long_name = Some(text(value)),
                        b"size" => long_size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok()),
                        _ => {}
                    }
                }
            }
            b'K' | b'g' => {}
            b'0' | b'7' | 0 => {
                let name = long_name.take().unwrap_or(header.name);
                // Old archives mark folders by a final slash.
                if !name.ends_with('/') {
                    index.members.push(Member { name, data: start..end });
                }
            }
            _ => long_name = None,
        }
        at = end.next_multiple_of(BLOCK);
    }
    Ok(index)
}

/// Appends one member to `archive` (ustar; with a GNU long name where 100 bytes do not hold the name).
/// Two zero blocks ([`finish`]) end the archive.
pub fn append(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    if name.len() > 100 {
        append_block(archive, b"././@LongLink", b'L', &[name.as_bytes(), &[0]].concat());
    }
    append_block(archive, &name.as_bytes()[..name.len().min(100)], b'0', data);
}

/// Ends an archive made by [`append`].
pub fn finish(archive: &mut Vec<u8>) {
    archive.extend([0; 2 * BLOCK]);
}

fn append_block(archive: &mut Vec<u8>, name: &[u8], kind: u8, data: &[u8]) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{:011o}\0{:011o}\0        ", data.len(), 0).as_bytes());
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

struct Header {
    name: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(block: &[u8]) -> Result<Self, String> {
        if block.len() < BLOCK {
            return Err(format!("its last header is cut after {} of {BLOCK} bytes", block.len()));
        }
        let told = number(&block[148..156]).ok_or("its header has no checksum")?;
        let blank = |(at, &byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { byte };
        // Some old writers summed signed bytes.
        let unsigned: u64 = block.iter().enumerate().map(|pair| u64::from(blank(pair))).sum();
        let signed: i64 = block.iter().enumerate().map(|pair| i64::from(blank(pair) as i8)).sum();
        if told != unsigned && told as i64 != signed {
            return Err(format!("the checksum of its header is {unsigned}, not {told} as the header says"));
        }
        let size = number(&block[124..136]).ok_or("its header has no size")?;
        let (name, prefix) = (text(&block[..100]), text(&block[345..500]));
        // GNU archives (`ustar  `) keep other things where POSIX ones have the prefix.
        let posix = &block[257..263] == b"ustar\0" && !prefix.is_empty();
        let name = if posix { format!("{prefix}/{name}") } else { name };
        Ok(Self { name, size, kind: block[156] })
    }
}

/// The bytes up to the first NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
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
fn pax_records(mut records: &[u8]) -> Vec<(&[u8], &[u8])> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, data) in members {
            append(&mut bytes, name, data);
        }
        finish(&mut bytes);
        bytes
    }

    fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let index = index(bytes).unwrap();
        index.members.into_iter().map(|member| (member.name, bytes[member.data].to_vec())).collect()
    }

    fn patch(bytes: &mut [u8], at: usize, field: &[u8]) {
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes[..BLOCK].iter().map(|&byte| u32::from(byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    #[test]
    fn members_of_every_length_are_found() {
        let (empty, block, over) = (vec![], vec![1; BLOCK], vec![2; BLOCK + 1]);
        let bytes = archive(&[("a.txt", &empty), ("b/c.jpg", &block), ("d", &over)]);
        let expected = [("a.txt", empty), ("b/c.jpg", block), ("d", over)].map(|(name, data)| (name.to_owned(), data));
        assert_eq!(members(&bytes), expected);
        assert!(index(&bytes).unwrap().cut.is_none());
    }

    #[test]
    fn long_names_come_from_gnu_pax_and_prefix() {
        let long = format!("{}/é.jpg", "folder".repeat(40));
        let bytes = archive(&[(&long, b"gnu"), ("short", b"next")]);
        assert_eq!(members(&bytes), [(long.clone(), b"gnu".to_vec()), ("short".to_owned(), b"next".to_vec())]);

        let record = format!(" path={long}\n");
        let length = record.len() + 3;
        let mut bytes = Vec::new();
        append_block(&mut bytes, b"pax", b'x', format!("{length}{record}11 size=4\n12 mtime=1.5\n").as_bytes());
        append(&mut bytes, "cut name", b"pax!");
        append(&mut bytes, "short", b"next");
        assert_eq!(members(&bytes), [(long, b"pax!".to_vec()), ("short".to_owned(), b"next".to_vec())]);

        let mut bytes = archive(&[("name.txt", b"x")]);
        patch(&mut bytes, 345, b"some/prefix");
        assert_eq!(members(&bytes)[0].0, "some/prefix/name.txt");
        patch(&mut bytes, 257, b"ustar  \0");
        assert_eq!(members(&bytes)[0].0, "name.txt");
    }

    #[test]
    fn links_and_folders_are_no_members() {
        let mut bytes = archive(&[("link", b""), ("b", b"b")]);
        patch(&mut bytes, 156, b"2");
        patch(&mut bytes, 124, b"00000001000\0");
        assert_eq!(members(&bytes), [("b".to_owned(), b"b".to_vec())]);
        assert_eq!(members(&archive(&[("folder/", b""), ("b", b"b")])).len(), 1);
    }

    #[test]
    fn base_256_sizes_are_read() {
        let mut bytes = archive(&[("a", b"12345"), ("b", b"b")]);
        patch(&mut bytes, 124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(members(&bytes)[0].1, b"12345");
        patch(&mut bytes, 124, &[0xFF; 12]);
        assert!(index(&bytes).is_err(), "a size of 2^95 is no size");
    }

    /// Every cut of a small archive: the whole members before it, and the one that is cut, if one is.
    #[test]
    fn a_cut_archive_gives_what_is_whole() {
        let bytes = archive(&[("a", &[1; 700]), ("b", &[2; 10])]);
        let (second, end) = (BLOCK + 1024, BLOCK + 1024 + BLOCK + 10);
        for length in BLOCK..bytes.len() {
            let index = index(&bytes[..length]).unwrap();
            let names: Vec<&str> = index.members.iter().map(|member| &*member.name).collect();
            let expected: &[&str] = match length {
                _ if length < BLOCK + 700 => &[],
                _ if length < end => &["a"],
                _ => &["a", "b"],
            };
            assert_eq!(names, expected, "{length}");
            let cut = index.cut.map(|cut| cut.name);
            match length {
                _ if length < BLOCK + 700 => assert_eq!(cut, Some(Some("a".to_owned())), "{length}"),
                _ if length <= second => assert_eq!(cut, None, "{length}"),
                _ if length < second + BLOCK => assert_eq!(cut, Some(None), "{length}"),
                _ if length < end => assert_eq!(cut, Some(Some("b".to_owned())), "{length}"),
                // A member that is whole is whole, although the archive's end is missing.
                _ => assert_eq!(cut, None, "{length}"),
            }
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_and_damage_stops_the_index() {
        assert!(index(b"GIF89a").unwrap_err().contains("cut after 6"));
        assert!(index(&[b'x'; 1024]).is_err());
        let mut bytes = archive(&[("a", b"a"), ("b", b"b")]);
        bytes[2 * BLOCK] ^= 1;
        let index = index(&bytes).unwrap();
        assert_eq!(index.members.len(), 1);
        assert!(index.cut.unwrap().problem.contains("checksum"));
    }
}
