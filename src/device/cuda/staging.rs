//! Uploads and downloads through pinned host memory, which the GPU reads and writes while the host continues.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};

/// Buffers in the ring of uploads: while the GPU reads some, the host fills the next.
const BUFFERS: usize = 8;

/// Bytes of such a buffer, large enough to make the cost of starting a copy negligible.
const PIECE: usize = 4 << 20;

/// Smaller uploads are copied by the driver itself before its call returns.
const MIN_STAGED_BYTES: usize = 64 * 1024;

/// Pinned memory; its last copy, in either direction, is done once `copied` has happened.
struct Buffer {
    start: *mut c_void,
    bytes: usize,
    copied: CudaEvent,
}

// SAFETY: plain memory and an event handle, used by one thread at a time (they are behind a mutex).
unsafe impl Send for Buffer {}

/// A ring of pinned buffers for uploads, and the free ones for downloads.
#[derive(Default)]
pub(super) struct Staging {
    ring: Mutex<(Vec<Buffer>, usize)>,
    returns: Arc<Mutex<Vec<Buffer>>>,
}

impl Staging {
    /// Copies `from` to the address `to` on the device, in stream order. `from` may be changed afterwards.
    pub(super) fn upload(
        &self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        to: u64,
        from: &[u8],
    ) -> Result<(), DriverError> {
        if from.len() < MIN_STAGED_BYTES {
            // SAFETY: the caller's range was allocated; the driver has read pageable memory when the call returns.
            return unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) };
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let (buffers, next) = &mut *ring;
        for (index, piece) in from.chunks(PIECE).enumerate() {
            let place = *next % BUFFERS;
            *next += 1;
            match buffers.get(place) {
                None => buffers.push(Buffer::new(context, PIECE)?),
                Some(buffer) => buffer.copied.synchronize()?,
            }
            let buffer = &buffers[place];
            // SAFETY: the buffer has room, is not being read (its event has happened), and does not overlap the
            // caller's memory.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), buffer.start.cast(), piece.len());
                let staged = std::slice::from_raw_parts(buffer.start.cast::<u8>(), piece.len());
                result::memcpy_htod_async(to + (index * PIECE) as u64, staged, stream.cu_stream())?;
            }
            buffer.copied.record(stream)?;
        }
        Ok(())
    }

    /// Starts to copy `len` f32 from the address `from`, in stream order; the returned function waits for them.
    pub(super) fn download(
        &self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        from: u64,
        len: usize,
    ) -> Result<impl FnOnce() -> Result<Vec<f32>, DriverError> + Send + 'static, DriverError> {
        let bytes = 4 * len;
        let mut free = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().position(|buffer| buffer.bytes >= bytes);
        let buffer = fitting.map_or_else(|| Buffer::new(context, bytes), |place| Ok(free.swap_remove(place)))?;
        drop(free);
        // SAFETY: the caller's range was allocated; the buffer has room and it is not read before `copied` has
        // happened.
        unsafe {
            let to = std::slice::from_raw_parts_mut(buffer.start.cast::<u8>(), bytes);
            result::memcpy_dtoh_async(to, from, stream.cu_stream())?;
        }
        buffer.copied.record(stream)?;
        let returns = self.returns.clone();
        Ok(move || {
            buffer.copied.synchronize()?;
            // SAFETY: pinned memory is aligned to a page, and the copy has been made.
            let values = unsafe { std::slice::from_raw_parts(buffer.start.cast::<f32>(), len) }.to_vec();
            returns.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
            Ok(values)
        })
    }
}

impl Buffer {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        let copied = context.new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        // SAFETY: every range of it is written, by the host or by a copy that has been waited for, before it is read.
        let start = unsafe { result::malloc_host(bytes, 0) }?;
        Ok(Self { start, bytes, copied })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // `Drop` cannot return an error; the next driver call reports it.
        let _ = self.copied.synchronize();
        // SAFETY: `start` came from `malloc_host`, and nothing reads it any more.
        let _ = unsafe { result::free_host(self.start) };
    }
}
