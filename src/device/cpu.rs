//! The CPU: f32 everywhere, all cores through rayon. It is the reference for the other devices. If the processor has
//! the instructions, the operands of the linear layers' products can be rounded to bf16.

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

use super::gemm::Operands;
use super::isa::{Isa, level, processor};
use super::pages::Pages;
use super::{Device, DeviceError, Elem, Float, Pending, ProbeSizes};

/// The CPU as a device. Threads are those of the rayon pool that calls it; results do not depend on their number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    operands: Operands,
}

impl Cpu {
    /// A CPU that rounds the operands of the linear layers' products to bf16.
    ///
    /// # Errors
    /// If this processor has no instructions for that.
    pub fn bf16() -> Result<Self, DeviceError> {
        let Some(operands) = Operands::fast_bf16() else {
            let what = "products in bf16: this processor has neither AMX nor AVX-512 BF16; --precision f32 needs none";
            return Err(DeviceError::Unsupported { what: what.to_owned() });
        };
        Ok(Self { operands })
    }

    /// The type that the operands of the linear layers' products are rounded to.
    pub(crate) fn operands(&self) -> Operands {
        self.operands
    }
}

/// A block of zeroed memory in large pages.
#[derive(Debug)]
pub struct CpuMemory(Pages);

/// Where control groups (version 2, version 1) say how much memory a container may use, and how much it uses. Without a
/// limit the first file is missing, or is not a number, or a huge one.
const CONTAINER: [[&str; 2]; 2] = [
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
    ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
];

/// Calls `body` on pairs of chunks, on all threads.
fn in_chunks<T: Elem>(into: &mut [T], from: &[T], body: impl Fn(&mut [T], &[T]) + Sync) {
    const CHUNK: usize = 1 << 16;
    into.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(into, from)| body(into, from));
}

impl Device for Cpu {
    type Act = f32;
    type Memory = CpuMemory;
    type View<'a, T: Elem> = &'a [T];
    type ViewMut<'a, T: Elem> = &'a mut [T];
    type Event = Instant;

    const SHADOW_WEIGHTS: bool = false;

    fn describe(&self) -> String {
        let threads = rayon::current_num_threads();
        let isa = Some(level()).filter(|isa| *isa != Isa::best()).map_or_else(String::new, |isa| format!(", {isa}"));
        let rounded = if self.gemm_is_bf16() { ", bf16 products" } else { "" };
        format!("cpu ({threads} thread{}{isa}{rounded})", if threads == 1 { "" } else { "s" })
    }

    fn arithmetic(&self) -> String {
        format!("cpu, {}", self.operands)
    }

    fn has_faster_bf16(&self) -> bool {
        !self.gemm_is_bf16() && Operands::fast_bf16() == Some(Operands::Bf16Tiles)
    }

    fn gemm_is_bf16(&self) -> bool {
        self.operands != Operands::F32
    }

    fn allocate(&self, bytes: usize, purpose: &str) -> Result<CpuMemory, DeviceError> {
        let failed = || DeviceError::OutOfMemory {
            device: "cpu",
            purpose: purpose.to_owned(),
            asked: bytes,
            free: None,
            held: Vec::new(),
            advice: None,
        };
        Pages::new(bytes).map(CpuMemory).map_err(|_| failed())
    }

    unsafe fn view<T: Elem>(memory: &CpuMemory, offset_bytes: usize, len: usize) -> &[T] {
        debug_assert!(offset_bytes + len * size_of::<T>() <= memory.0.len());
        // SAFETY: in range, aligned and unaliased by the caller's contract; every bit pattern is a `T` (Pod).
        unsafe { std::slice::from_raw_parts(memory.0.start().as_ptr().add(offset_bytes).cast(), len) }
    }

    unsafe fn view_mut<T: Elem>(memory: &CpuMemory, offset_bytes: usize, len: usize) -> &mut [T] {
        debug_assert!(offset_bytes + len * size_of::<T>() <= memory.0.len());
        // SAFETY: as in `view`, and exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(memory.0.start().as_ptr().add(offset_bytes).cast(), len) }
    }

    fn probe_sizes(&self) -> Option<ProbeSizes> {
        // Without vector instructions a product takes a hundred times as long.
        let product_side = if level() == Isa::Portable { 256 } else { 2048 };
        let name = format!("{} {}", processor(), self.describe());
        Some(ProbeSizes { name, copy_bytes: 256 << 20, reads_before_writing: true, product_side })
    }

    fn record_event(&self) -> Result<Instant, DeviceError> {
        Ok(Instant::now())
    }

    fn seconds(&self, from: &Instant, to: &Instant) -> Result<f64, DeviceError> {
        Ok((*to - *from).as_secs_f64())
    }

    fn upload<T: Elem>(&self, to: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn add_into<T: Float>(&self, into: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        let add = |into: &mut T, from: &T| *into = T::from_f32(into.to_f32() + from.to_f32());
        in_chunks(into, from, |into, from| into.iter_mut().zip(from).for_each(|(into, from)| add(into, from)));
        Ok(())
    }

    fn copy<T: Elem>(&self, into: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        in_chunks(into, from, |into, from| into.copy_from_slice(from));
        Ok(())
    }

    /// Half of what Linux calls available, or of what the container may still use: other programs and the cache of
    /// files need some, too.
    fn free_bytes(&self) -> Option<usize> {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
        let left = |[limit, used]: [&str; 2]| Some(number(limit)?.saturating_sub(number(used)?));
        let groups = CONTAINER.iter().filter_map(|files| left(*files));
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        groups.chain([kibibytes.saturating_mul(1024)]).min().map(|bytes| bytes / 2)
    }

    fn swap_in(&self, copies: Vec<(&mut [u8], &[u8])>) -> Result<(), DeviceError> {
        copies.into_iter().for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    }

    fn download_async(&self, from: &[f32]) -> Result<Pending, DeviceError> {
        let values = from.to_vec();
        Ok(Box::new(|| Ok(values)))
    }

    fn download<T: Elem>(&self, to: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn on_host<T: Elem, R>(
        &self,
        view: &mut [T],
        _: Range<usize>,
        body: impl FnOnce(&mut [T]) -> R,
    ) -> Result<R, DeviceError> {
        Ok(body(view))
    }
}
