//! Archives, written by the `tar` crate, so that flipk's reader is not tested with a writer of its own.

use tar::{Builder, Header};

/// Adds a file to an archive that has no end mark.
pub fn append(archive: &mut Vec<u8>, name: impl AsRef<[u8]>, data: &[u8]) {
    const END_MARK: usize = 1024;
    let mut header = Header::new_gnu();
    // As bytes: names need not be UTF-8.
    header.as_old_mut().name[..name.as_ref().len()].copy_from_slice(name.as_ref());
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut builder = Builder::new(std::mem::take(archive));
    builder.append(&header, data).unwrap();
    *archive = builder.into_inner().unwrap();
    archive.truncate(archive.len() - END_MARK);
}

/// Adds the end mark.
pub fn finish(archive: &mut Vec<u8>) {
    *archive = Builder::new(std::mem::take(archive)).into_inner().unwrap();
}
