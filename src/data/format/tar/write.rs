//! Making small archives.

use super::header::BLOCK;

/// Appends one member to `archive`, as ustar, with a GNU long name if the name has more than 100 bytes.
/// Two zero blocks ([`finish`]) end the archive.
pub fn append(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    append_bytes(archive, name.as_bytes(), data);
}

/// As [`append`], for a name that need not be UTF-8.
pub fn append_bytes(archive: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    if name.len() > 100 {
        append_block(archive, b"././@LongLink", b'L', b"", &[name, &[0]].concat());
    }
    append_block(archive, &name[..name.len().min(100)], b'0', b"", data);
}

/// Appends a link to `target`: of kind `1` if it is hard, `2` if it is symbolic. Both names have at most 100 bytes.
pub fn append_link(archive: &mut Vec<u8>, name: &str, kind: u8, target: &str) {
    append_block(archive, name.as_bytes(), kind, target.as_bytes(), b"");
}

/// Ends an archive made by [`append`].
pub fn finish(archive: &mut Vec<u8>) {
    archive.extend([0; 2 * BLOCK]);
}

pub(super) fn append_block(archive: &mut Vec<u8>, name: &[u8], kind: u8, link: &[u8], data: &[u8]) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{:011o}\0{:011o}\0        ", data.len(), 0).as_bytes());
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}
