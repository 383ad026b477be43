//! Where numbers live and who computes on them.
//!
//! A [`Device`] owns memory and hands out typed views of it. What it can compute is said op by op, by the small traits
//! in [`crate::ops`] (`LayerNorm`, `Attention`, ...), so a new op touches no list here.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod gemm;
pub mod isa;

pub use cpu::{Cpu, CpuMemory};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;

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
    fn from_f32(value: f32) -> Self;
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

/// What the launches of one kernel did, where that is counted (the emulated GPU).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelCounts {
    pub kernel: String,
    pub launches: u64,
    pub blocks: u64,
    /// Of the largest block, as its bytes of shared memory.
    pub threads: u32,
    pub shared_bytes: usize,
    pub warp_instructions: u64,
    /// Floating-point operations of matrix instructions.
    pub mma_flops: u64,
    /// As [`Device::moved_bytes`].
    pub moved_bytes: u64,
    /// Passes over shared memory.
    pub shared_passes: u64,
    /// Passes over shared memory if there were no bank conflicts.
    #[serde(rename = "shared_passes_least")]
    pub min_shared_passes: u64,
    /// An estimate, and what in it takes longest: `memory`, `tensor cores`, `issue`, `shared memory`.
    pub seconds: f64,
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

/// What a device can fail with.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "{device}: out of memory: {} for {purpose}{}{}",
        Bytes(*asked),
        describe_memory(*free, held),
        advice.as_ref().map_or_else(String::new, |advice| format!("; {advice}"))
    )]
    OutOfMemory {
        device: &'static str,
        purpose: String,
        asked: usize,
        /// Bytes that are left, where that is known.
        free: Option<usize>,
        /// What holds memory, and how much.
        held: Vec<(String, usize)>,
        /// What the user can do.
        advice: Option<String>,
    },
    #[error(
        "this flipk was built without CUDA's compiler and has no kernels; run tools/cuda-compiler and build it again"
    )]
    NoKernels,
    #[error("no NVIDIA GPU can be used: {problem}; --device cpu and --device emulator need none")]
    NoGpu { problem: String },
    #[error("the GPU failed in {call}: {problem}")]
    Driver { call: String, problem: String },
    #[error("kernel {kernel}: {problem}")]
    Kernel { kernel: String, problem: String },
    #[error("not possible on this device: {what}")]
    Unsupported { what: String },
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
    fn replay(&self) -> Result<(), DeviceError>;
}

/// A download in flight; calling it waits for the numbers.
pub type Pending = Box<dyn FnOnce() -> Result<Vec<f32>, DeviceError> + Send>;

/// A copy and a product that are large enough to reach a device's ceilings.
#[derive(Clone, Debug)]
pub struct ProbeSizes {
    /// The device and its hardware: what is measured holds for all with this name.
    pub name: String,
    /// Far more than any cache holds.
    pub copy_bytes: usize,
    /// Whether a store reads the line that it overwrites, as CPUs do: a copy then moves half as much again as it has to, and a sum
    /// in place, which reads what it overwrites anyway, shows what the memory can do.
    pub reads_before_writing: bool,
    /// Rows and columns of both square operands.
    pub product_side: usize,
}

/// Rates that an H100 SXM (80 GB) reaches; the emulated GPU stands for one.
pub mod h100 {
    /// Bytes per second of a large copy, reads and writes both counted.
    pub const BANDWIDTH: f64 = 3.0e12;
    /// FLOP/s of large bf16 products by cuBLAS on random data.
    pub const GEMM: f64 = 798e12;
}

/// A place to compute: memory, views of it, and copies in and out.
pub trait Device: Sized + Send + Sync + 'static {
    /// The type of activations, their gradients and matrix operands: f32 on the CPU, bf16 on a GPU.
    type Act: Float;
    /// One block of raw memory.
    type Memory: Send + Sync;
    /// A typed, shared view into a block.
    type View<'a, T: Elem>: Copy;
    /// A typed, exclusive view into a block.
    type ViewMut<'a, T: Elem>;
    /// A moment of the device's time.
    type Event: Send;

    /// Whether matrix operands are a copy of the master weights in another type ([`Device::Act`]).
    const SHADOW_WEIGHTS: bool;

    /// As it is shown to a user: `cpu (2 threads)`.
    fn describe(&self) -> String;

    /// What the bits of results depend on besides the inputs: `cpu, f32`. Devices that give the same answer train the same
    /// weights.
    fn arithmetic(&self) -> String;

    /// Whether the operands of the towers' matrix products are bf16.
    fn gemm_is_bf16(&self) -> bool;

    /// A zeroed block. `purpose` goes into the error if there is no room.
    fn allocate(&self, bytes: usize, purpose: &str) -> Result<Self::Memory, DeviceError>;

    /// As [`Device::allocate`], where nobody reads what was not written before.
    fn allocate_unwritten(&self, bytes: usize, purpose: &str) -> Result<Self::Memory, DeviceError> {
        self.allocate(bytes, purpose)
    }

    /// Marks the contents as uninitialised; a checking device reports later reads.
    fn mark_uninit<T: Elem>(&self, _view: Self::ViewMut<'_, T>) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Elements `offset_bytes..` of `memory`, `len` of them.
    ///
    /// # Safety
    /// The range lies in the block, is aligned for `T`, and no exclusive view of any of it is alive.
    unsafe fn view<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::View<'_, T>;

    /// As [`Device::view`], exclusively.
    ///
    /// # Safety
    /// The range lies in the block, is aligned for `T`, and no other view of any of it is alive.
    unsafe fn view_mut<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::ViewMut<'_, T>;

    /// Host to device; lengths are equal.
    fn upload<T: Elem>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError>;

    /// As [`Device::upload`], on a copy stream: computation continues, and only [`Device::swap_in`] sees the result.
    fn upload_async<T: Elem>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError> {
        self.upload(to, from)
    }

    /// `into += from`, of equal length.
    fn add_into(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;

    /// `into = from`, of equal length.
    fn copy(&self, into: Self::ViewMut<'_, Self::Act>, from: Self::View<'_, Self::Act>) -> Result<(), DeviceError>;

    /// Copies each pair's second to its first, of equal length, after all asynchronous uploads; later uploads wait for these copies.
    fn swap_in(&self, copies: Vec<(Self::ViewMut<'_, u8>, Self::View<'_, u8>)>) -> Result<(), DeviceError>;

    /// Captures all calls, instead of making them, until [`Device::end_capture`]. Uploads, downloads, events and allocations are
    /// not possible during capture. Returns whether the device can capture at all.
    fn begin_capture(&self) -> Result<bool, DeviceError> {
        Ok(false)
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

    /// Bytes that moved to and from memory between two events, where the device counts them (the emulated GPU): of each kernel
    /// the different sectors of 32 bytes that it reads and those that it writes; of each matrix product, copy and fill its
    /// operands and results, once. What a kernel reads again is taken to come from a cache, and what it finds there of the
    /// kernel before it to come from memory.
    fn moved_bytes(&self, _from: &Self::Event, _to: &Self::Event) -> Option<u64> {
        None
    }

    /// What each kernel did since this was last asked, in the order of their names; nothing where it is not counted.
    fn take_kernels(&self) -> Vec<KernelCounts> {
        Vec::new()
    }

    /// Clocks, power and temperature of a GPU, where they are known.
    fn gpu_state(&self) -> Option<GpuState> {
        None
    }

    /// Device to host; waits for what computes `from`; lengths are equal.
    fn download<T: Elem>(&self, to: &mut [T], from: Self::View<'_, T>) -> Result<(), DeviceError>;

    /// Starts a download ordered after all work so far; returns at once.
    fn download_async(&self, from: Self::View<'_, f32>) -> Result<Pending, DeviceError>;
}
