//! Devices: their memory, typed views of it, and copies.
//!
//! A [`Buffer`] owns memory of a [`Device`] and gives views of it. What a device can compute is declared op by op, by
//! the small traits in [`crate::ops`] (`LayerNorm`, `Attention`, ...), so a new op touches no list here.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::group::{Group, GroupError, block_of};
use crate::units::Bytes;

mod buffer;
mod captured;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod gemm;
pub mod isa;
mod pages;
mod stopwatch;

pub use buffer::Buffer;
pub use captured::Captured;
pub use cpu::{Cpu, CpuMemory};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use stopwatch::Stopwatch;

/// A number type that tensors can hold.
pub trait Elem: bytemuck::Pod + Send + Sync + 'static {
    /// As safetensors spells it.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty => $name:literal),*) => { $(impl Elem for $type { const NAME: &'static str = $name; })* };
}
elements!(f32 => "F32", half::bf16 => "BF16", u8 => "U8", i32 => "I32", u32 => "U32");

/// A floating-point type that activations can have.
pub trait Float: Elem {
    /// Rounds to the nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// The same value in f32.
    fn to_f32(self) -> f32;
}

impl Float for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for half::bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// What the launches of one kernel did; only an emulated GPU counts that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelCounts {
    /// The kernel's name.
    pub kernel: String,
    /// Launches.
    pub launches: u64,
    /// Blocks of all launches.
    pub blocks: u64,
    /// Threads of the largest block.
    pub threads: u32,
    /// Largest shared memory of a block, static and dynamic.
    pub shared_bytes: usize,
    /// Instructions that warps executed.
    pub warp_instructions: u64,
    /// Floating-point operations of matrix instructions.
    pub mma_flops: u64,
    /// Bytes moved, as [`Device::moved_bytes`] counts them.
    pub moved_bytes: u64,
    /// Passes over shared memory.
    pub shared_passes: u64,
    /// Passes over shared memory if there were no bank conflicts.
    #[serde(rename = "shared_passes_least")]
    pub min_shared_passes: u64,
    /// Estimated time of all launches.
    pub seconds: f64,
    /// The bottleneck in that estimate: `memory`, `tensor cores`, `issue` or `shared memory`.
    pub slowest: String,
}

/// What a GPU reports about itself at one moment; quantities that it does not measure are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// Clock of the streaming multiprocessors, in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory, in MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Power of the whole card, in watts.
    pub power_watts: Option<f64>,
    /// Temperature of the chip, in degrees Celsius.
    pub temperature_celsius: Option<u32>,
}

impl std::fmt::Display for GpuState {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let known = [
            self.sm_clock_mhz.map(|clock| format!("SM {clock} MHz")),
            self.memory_clock_mhz.map(|clock| format!("memory {clock} MHz")),
            self.power_watts.map(|power| format!("{power:.1} W")),
            self.temperature_celsius.map(|degrees| format!("{degrees} °C")),
        ];
        f.write_str(&known.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    #[error(
        "{device}: out of memory: {} for {purpose}{}{}",
        Bytes(*asked),
        describe_memory(*free, held),
        advice.as_ref().map_or_else(String::new, |advice| format!("; {advice}"))
    )]
    /// An allocation failed.
    OutOfMemory {
        /// Which device: `cpu` or `cuda`.
        device: &'static str,
        /// What the memory is for.
        purpose: String,
        /// Bytes asked for.
        asked: usize,
        /// Bytes that are left, where that is known.
        free: Option<usize>,
        /// What holds memory, and how many bytes.
        held: Vec<(String, usize)>,
        /// What the user can do.
        advice: Option<String>,
    },
    #[error(
        "this flipk was built without CUDA's compiler and has no kernels; run tools/cuda-compiler and build it again"
    )]
    /// The program was built without kernels.
    NoKernels,
    /// There is no GPU, or no driver for it.
    #[error("no NVIDIA GPU can be used: {problem}; --device cpu and --device emulator need none")]
    NoGpu {
        /// What is missing.
        problem: String,
    },
    /// A call of the driver or of cuBLASLt failed.
    #[error("the GPU failed in {call}: {problem}")]
    Driver {
        /// The call.
        call: String,
        /// What it reported.
        problem: String,
    },
    /// A kernel could not be loaded or launched, or the emulator found a fault in it.
    #[error("kernel {kernel}: {problem}")]
    Kernel {
        /// The kernel's name.
        kernel: String,
        /// What is wrong.
        problem: String,
    },
    /// The device lacks an instruction, or cannot do this at these sizes or at this time.
    #[error("not possible on this device: {what}")]
    Unsupported {
        /// What it cannot do.
        what: String,
    },
    /// The exchange with other ranks failed.
    #[error("between ranks: {0}")]
    Group(#[from] GroupError),
}

impl DeviceError {
    /// Whether another start may succeed. A GPU's memory may still be held by a process that is about to end.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::OutOfMemory { device, .. } => *device != "cpu",
            Self::Driver { .. } | Self::Kernel { .. } => true,
            Self::NoKernels | Self::NoGpu { .. } | Self::Unsupported { .. } => false,
            Self::Group(error) => error.may_pass(),
        }
    }
}

/// What is left and what holds memory, largest first; what holds less than a MiB is not listed.
fn describe_memory(free: Option<usize>, held: &[(String, usize)]) -> String {
    let mut uses: Vec<(&str, usize)> = Vec::new();
    for (purpose, bytes) in held {
        match uses.iter_mut().find(|(known, _)| known == purpose) {
            Some((_, sum)) => *sum += bytes,
            None => uses.push((purpose, *bytes)),
        }
    }
    uses.retain(|(_, bytes)| *bytes >= 1 << 20);
    uses.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let uses: Vec<String> = uses.iter().map(|(purpose, bytes)| format!("{purpose} {}", Bytes(*bytes))).collect();
    let free = free.map_or_else(String::new, |free| format!(", {} are free", Bytes(free)));
    if uses.is_empty() { free } else { format!("{free} (in use: {})", uses.join(", ")) }
}

/// Captured calls, to be replayed on the same addresses (a CUDA graph).
pub trait Graph: Send {
    /// Makes the captured calls.
    ///
    /// # Errors
    /// If the device fails.
    fn replay(&self) -> Result<(), DeviceError>;
}

/// A download in flight; calling it waits for the values.
pub type Pending = Box<dyn FnOnce() -> Result<Vec<f32>, DeviceError> + Send>;

/// Sizes of a copy and of a matrix product that reach a device's ceilings.
#[derive(Clone, Debug)]
pub struct ProbeSizes {
    /// Device and hardware; measured ceilings are cached under this name.
    pub name: String,
    /// Far more than any cache holds.
    pub copy_bytes: usize,
    /// Whether a store first reads the cache line that it overwrites, as on CPUs. A copy then moves 1.5 times its
    /// bytes, so a sum in place, which reads what it overwrites anyway, measures the memory better.
    pub reads_before_writing: bool,
    /// Rows and columns of both operands.
    pub product_side: usize,
}

/// Rates that an H100 SXM (80 GB) reaches; the emulated GPU stands for one.
pub mod h100 {
    /// Bytes per second of a large copy, reads and writes both counted.
    pub const BANDWIDTH: f64 = 3.0e12;
    /// FLOP/s of large bf16 products by cuBLAS on random data.
    pub const GEMM: f64 = 798e12;
}

/// Blocks of all ranks in a device's memory, each rank's after the one of the rank before ([`Buffer::blocks_mut`]).
pub struct Blocks<'a, D: Device> {
    view: D::ViewMut<'a, u8>,
    /// Bytes of all blocks.
    len: usize,
    /// Bytes of a block, whole words; the last ones may be shorter.
    block: usize,
}

/// A place to compute: memory, views of it, and copies in and out.
pub trait Device: Sized + Send + Sync + 'static {
    /// The type of activations, their gradients and matrix operands: f32 on the CPU, bf16 on a GPU.
    type Act: Float;
    /// A block of untyped memory.
    type Memory: Send + Sync;
    /// A typed, shared view into a block.
    type View<'a, T: Elem>: Copy;
    /// A typed, exclusive view into a block.
    type ViewMut<'a, T: Elem>;
    /// A point in the device's order of work.
    type Event: Send;

    /// Whether matrix products read a copy of the master weights in another type, [`Device::Act`].
    const SHADOW_WEIGHTS: bool;

    /// Whether calls can be captured, to be replayed.
    const CAPTURES: bool = false;

    /// The name to show a user: `cpu (2 threads)`.
    fn describe(&self) -> String;

    /// What the bits of results depend on besides the inputs: `cpu, f32`. Devices that return the same text train the
    /// same weights.
    fn arithmetic(&self) -> String;

    /// Whether the operands of the towers' matrix products are bf16.
    fn gemm_is_bf16(&self) -> bool;

    /// Whether they are not, although this device multiplies bf16 several times as fast.
    fn has_faster_bf16(&self) -> bool {
        false
    }

    /// A zeroed block, aligned for every [`Elem`].
    ///
    /// # Errors
    /// If there is too little memory; the error names `purpose`.
    fn allocate(&self, bytes: usize, purpose: &str) -> Result<Self::Memory, DeviceError>;

    /// As [`Device::allocate`], but contents are undefined until they are written.
    fn allocate_unwritten(&self, bytes: usize, purpose: &str) -> Result<Self::Memory, DeviceError> {
        self.allocate(bytes, purpose)
    }

    /// Marks the contents as uninitialised; a checking device reports later reads.
    fn mark_uninit<T: Elem>(&self, _view: Self::ViewMut<'_, T>) -> Result<(), DeviceError> {
        Ok(())
    }

    /// `len` elements of `memory` from byte `offset_bytes` on. [`Buffer`] gives the same safely.
    ///
    /// # Safety
    /// The range lies in the block and is aligned for `T`, and while the view lives there is no exclusive view of any
    /// of it.
    unsafe fn view<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::View<'_, T>;

    /// As [`Device::view`], exclusively.
    ///
    /// # Safety
    /// The range lies in the block and is aligned for `T`, and while the view lives there is no other view of any of
    /// it.
    unsafe fn view_mut<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::ViewMut<'_, T>;

    /// Copies from host to device; lengths are equal.
    fn upload<T: Elem>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError>;

    /// As [`Device::upload`], on a copy stream: computation continues, and the data may be read after
    /// [`Device::swap_in`] only.
    fn upload_async<T: Elem>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError> {
        self.upload(to, from)
    }

    /// `into += from`, of equal length.
    fn add_into<T: Float>(&self, into: Self::ViewMut<'_, T>, from: Self::View<'_, T>) -> Result<(), DeviceError>;

    /// `into = from`, of equal length.
    fn copy<T: Elem>(&self, into: Self::ViewMut<'_, T>, from: Self::View<'_, T>) -> Result<(), DeviceError>;

    /// Bytes that can still be allocated without pushing out other programs, where that is known.
    fn free_bytes(&self) -> Option<usize>;

    /// For each `(to, from)` of equal length, copies `from` to `to`, after all asynchronous uploads so far. Later
    /// asynchronous uploads wait for these copies.
    fn swap_in(&self, copies: Vec<(Self::ViewMut<'_, u8>, Self::View<'_, u8>)>) -> Result<(), DeviceError>;

    /// Captures all calls, instead of making them, until [`Device::end_capture`], on a device that can
    /// ([`Self::CAPTURES`]). Uploads, downloads and allocations are not possible during capture. Forked calls must be
    /// joined before the capture ends, and its events cannot be used outside.
    fn begin_capture(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The captured calls; `None` from a device that cannot capture.
    fn end_capture(&self) -> Result<Option<Box<dyn Graph>>, DeviceError> {
        Ok(None)
    }

    /// Whether times are estimates, as an emulated GPU's are.
    fn estimates(&self) -> bool {
        self.probe_sizes().is_none()
    }

    /// What to measure the device's ceilings with; `None` where times are estimates.
    fn probe_sizes(&self) -> Option<ProbeSizes>;

    /// An event after all work so far.
    fn record_event(&self) -> Result<Self::Event, DeviceError>;

    /// Seconds from one event to another; waits for both.
    fn seconds(&self, from: &Self::Event, to: &Self::Event) -> Result<f64, DeviceError>;

    /// Bytes moved to and from memory between two events; only an emulated GPU counts them. A kernel counts the
    /// distinct 32-byte sectors that it reads and those that it writes; a matrix product, copy or fill counts its
    /// operands and results once. So caches are taken to hold all that one kernel reads, and nothing from one kernel
    /// to the next.
    fn moved_bytes(&self, _from: &Self::Event, _to: &Self::Event) -> Option<u64> {
        None
    }

    /// What each kernel did since the last call, by name; empty where it is not counted.
    fn take_kernels(&self) -> Vec<KernelCounts> {
        Vec::new()
    }

    /// Clocks, power and temperature of a GPU, where they are known.
    fn gpu_state(&self) -> Option<GpuState> {
        None
    }

    /// Copies from device to host, after all work so far; lengths are equal.
    fn download<T: Elem>(&self, to: &mut [T], from: Self::View<'_, T>) -> Result<(), DeviceError>;

    /// Starts a download ordered after all work so far; returns at once.
    fn download_async(&self, from: Self::View<'_, f32>) -> Result<Pending, DeviceError>;

    /// Calls `body` with the elements in the host's memory, aligned to four bytes, after all work so far. Of what is
    /// on the device, `body` may read the elements of `read`; all that it writes is on the device afterwards.
    fn on_host<T: Elem, R>(
        &self,
        view: Self::ViewMut<'_, T>,
        read: Range<usize>,
        body: impl FnOnce(&mut [T]) -> R,
    ) -> Result<R, DeviceError>;

    /// Gives all ranks the blocks of all, each of `parts` as [`Group::all_gather`]. A device that connects ranks by
    /// itself starts all parts together, which should have the latency of one.
    fn all_gather(&self, group: &dyn Group, parts: Vec<Blocks<'_, Self>>) -> Result<(), DeviceError> {
        self.all_gather_on_host(group, parts)
    }

    /// As [`Device::all_gather`], through the host's memory.
    fn all_gather_on_host(&self, group: &dyn Group, parts: Vec<Blocks<'_, Self>>) -> Result<(), DeviceError> {
        parts.into_iter().try_for_each(|Blocks { view, len, block }| {
            let (own, words) = (block_of(group.rank(), block, len), block / size_of::<u32>());
            Ok(self.on_host(view, own, |all| group.all_gather(bytemuck::cast_slice_mut(all), words))??)
        })
    }

    /// Runs `body`, whose transfers, copies and sums are queued on a stream of their own, after all calls so far.
    /// Later calls do not wait for them until [`Device::join`], or [`Device::wait_event`] for an event among them, so
    /// they must not touch the same memory.
    fn fork<R>(&self, body: impl FnOnce() -> Result<R, DeviceError>) -> Result<R, DeviceError> {
        body()
    }

    /// Lets later calls wait for all calls of [`Device::fork`].
    fn join(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Lets later calls wait for an event, which may be one of [`Device::fork`].
    fn wait_event(&self, _event: &Self::Event) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Without `stop`, writes the time to `watch`, of [`Stopwatch::LEN`] elements; with it, the seconds since then.
    /// Only GPUs have this.
    fn stopwatch(&self, _watch: Self::ViewMut<'_, f32>, _stop: bool) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported { what: "a stopwatch".to_owned() })
    }

    /// Whether [`Device::all_to_all`] is possible: the device moves its memory to other ranks by itself.
    fn connects_ranks(&self) -> bool {
        false
    }

    /// Sends each view to a rank, and receives from ranks. Between two ranks, messages arrive in the order of the
    /// lists.
    fn all_to_all(
        &self,
        _sends: Vec<(usize, Self::View<'_, f32>)>,
        _receives: Vec<(usize, Self::ViewMut<'_, f32>)>,
    ) -> Result<(), DeviceError> {
        Err(DeviceError::Unsupported { what: "an exchange between ranks without the host".to_owned() })
    }
}
