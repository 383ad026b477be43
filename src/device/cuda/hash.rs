//! Fingerprints of buffers on a GPU, to compare results without copying them: `kernels/hash.cu`.

use super::driver::{Arg, Driver, Launch, LaunchConfig, args};
use crate::device::DeviceError;

/// Bytes of scratch that [`fingerprint`] needs.
pub const SCRATCH_BYTES: usize = 16;

/// What two buffers of one length are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// A sum of mixed pairs of position and 32-bit word. Buffers that differ have the same one with a chance of about
    /// 2^-64.
    pub hash: u64,
    /// Words that are not zero and differ from the word before, in each 16 bytes: three quarters of random data.
    pub varied: u64,
}

impl Fingerprint {
    /// Whether the buffer, of this length, holds enough different numbers for a comparison to mean something. Zeros,
    /// constants and data that is mostly zero do not: every order of summation gives the same bits there.
    pub fn is_telling(&self, bytes: usize) -> bool {
        self.varied * 16 >= bytes as u64
    }
}

/// The fingerprint of `bytes` bytes at `address` (16-byte aligned), after all calls so far; waits for it. `scratch`:
/// the address of [`SCRATCH_BYTES`] bytes.
///
/// # Errors
/// As the driver.
pub fn fingerprint(driver: &dyn Driver, address: u64, bytes: usize, scratch: u64) -> Result<Fingerprint, DeviceError> {
    driver.zero(scratch, SCRATCH_BYTES)?;
    // Enough threads to fill a GPU, and few enough for the atomic additions not to matter.
    let blocks = bytes.div_ceil(16 * 256).clamp(1, 1056);
    let (config, args) = (LaunchConfig::blocks(blocks, 256), args![address, Arg::size(bytes), scratch]);
    driver.launch(&Launch::new("hash", "hash_bytes", config, args)?)?;
    let mut found = [0u64; 2];
    driver.download(bytemuck::cast_slice_mut(&mut found), scratch)?;
    let [hash, varied] = found;
    Ok(Fingerprint { hash, varied })
}
