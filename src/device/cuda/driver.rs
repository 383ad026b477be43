//! What a GPU has to do: the interface that the real one and the emulated one implement.

use std::sync::Arc;

use crate::device::{DeviceError, GpuState, Graph, KernelCounts, Pending};
use crate::group::{Nccl, Transfer};

/// The grid, the block and the bytes of dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks of the grid along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: usize,
}

impl LaunchConfig {
    /// `blocks` blocks of `threads` threads, both along x.
    pub fn blocks(blocks: usize, threads: u32) -> Self {
        Self::blocks_2d([blocks, 1], [threads, 1])
    }

    /// Blocks and threads along x and y.
    pub fn blocks_2d([x, y]: [usize; 2], [threads_x, threads_y]: [u32; 2]) -> Self {
        let saturated = |blocks: usize| u32::try_from(blocks).unwrap_or(u32::MAX);
        Self { blocks: [saturated(x), saturated(y), 1], threads: [threads_x, threads_y, 1], shared: 0 }
    }

    /// Blocks of `threads` threads, one thread per `per_thread` elements up to a limit; kernels loop over the rest.
    pub fn for_elements(elements: usize, per_thread: usize, threads: u32) -> Self {
        const MAX_BLOCKS: usize = 1 << 20;
        Self::blocks(elements.div_ceil(per_thread * threads as usize).clamp(1, MAX_BLOCKS), threads)
    }

    /// The same with `shared` bytes of dynamic shared memory.
    pub fn with_shared(self, shared: usize) -> Self {
        Self { shared, ..self }
    }
}

/// A kernel call, whose sizes are checked.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The file under `kernels/`, without its extension.
    pub(super) module: &'static str,
    /// The kernel in it.
    pub(super) kernel: &'a str,
    /// Its grid, block and shared memory.
    pub(super) config: LaunchConfig,
    /// Its arguments, in order.
    pub(super) args: &'a [Arg],
}

impl<'a> Launch<'a> {
    /// A call of `kernels/{module}.cu`'s `{kernel}`.
    ///
    /// # Errors
    /// If a size does not fit an `int`.
    pub fn new(
        module: &'static str,
        kernel: &'a str,
        config: LaunchConfig,
        args: &'a [Arg],
    ) -> Result<Self, DeviceError> {
        match args.iter().find_map(|arg| arg.too_large) {
            None => Ok(Self { module, kernel, config, args }),
            Some(size) => {
                let what = format!("{kernel}: a size of {size}; at most {} on a GPU", i32::MAX);
                Err(DeviceError::Unsupported { what })
            }
        }
    }
}

/// One argument of a kernel, as the bytes that the driver copies.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
    too_large: Option<usize>,
}

impl Arg {
    const MAX_BYTES: usize = 32;

    /// A number or a struct that the kernel takes by value, of at most 32 bytes.
    pub fn new<T: bytemuck::NoUninit>(value: T) -> Self {
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        Self { bytes, len: size_of::<T>(), too_large: None }
    }

    /// A `size_t`. A plain `usize` becomes an `int`.
    pub fn size(size: usize) -> Self {
        Self::new(size as u64)
    }

    /// The bytes, in the device's order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl From<&Self> for Arg {
    fn from(arg: &Self) -> Self {
        *arg
    }
}

/// An `int`. A size that does not fit makes the launch fail.
impl From<&usize> for Arg {
    fn from(size: &usize) -> Self {
        Self { too_large: i32::try_from(*size).is_err().then_some(*size), ..Self::new(*size as i32) }
    }
}

/// An `int`, 0 or 1.
impl From<&bool> for Arg {
    fn from(flag: &bool) -> Self {
        Self::new(i32::from(*flag))
    }
}

/// An address.
impl From<&u64> for Arg {
    fn from(address: &u64) -> Self {
        Self::new(*address)
    }
}

impl From<&f32> for Arg {
    fn from(value: &f32) -> Self {
        Self::new(*value)
    }
}

/// The arguments of a [`Launch`]: views, sizes (`int`, checked), flags, floats and ready [`Arg`]s.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::device::cuda::Arg::from(&$value)),*] as &[$crate::device::cuda::Arg] };
}
pub(crate) use args;

/// The type of a matrix's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// A dense row-major operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Address of the first element.
    pub address: u64,
    /// Whether memory holds its transpose.
    pub transposed: bool,
}

impl Operand {
    /// A matrix as it is in memory.
    pub fn plain(address: u64) -> Self {
        Self { address, transposed: false }
    }

    /// The transpose of a matrix in memory.
    pub fn transposed(address: u64) -> Self {
        Self { address, transposed: true }
    }
}

/// What is applied to a product before it is stored; its vectors and matrices have the operands' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Adds a bias to each row.
    Bias(
        /// `[n]`.
        u64,
    ),
    /// Adds a bias, stores the sum to `pre`, and applies tanh-GELU.
    GeluBias {
        /// `[n]`.
        bias: u64,
        /// `[m, n]`.
        pre: u64,
    },
    /// Multiplies by the derivative of tanh-GELU at `pre`.
    GeluSlope {
        /// `[m, n]`.
        pre: u64,
    },
}

/// `d = epilogue(a b)`, or `d += a b`, with `a: [m, k]`, `b: [k, n]`, `d: [m, n]`; sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// `[m, k]`.
    pub a: Operand,
    /// `[k, n]`.
    pub b: Operand,
    /// The type of `a` and `b`.
    pub operands: DType,
    /// `[m, n]`, row-major.
    pub d: u64,
    /// The type of `d`.
    pub result: DType,
    /// Add to `d`; the epilogue must be [`Epilogue::None`].
    pub accumulate: bool,
    /// What is applied before the result is stored.
    pub epilogue: Epilogue,
}

/// What launchers need to know about a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub sm_count: usize,
    /// Bytes of shared memory that a block may use after opting in.
    pub shared: usize,
}

impl Gemm {
    /// `d = a b` with `[m, n, k]`, all three matrices of one type.
    pub fn new([m, n, k]: [usize; 3], dtype: DType, a: Operand, b: Operand, d: u64) -> Self {
        Self { m, n, k, a, b, operands: dtype, d, result: dtype, accumulate: false, epilogue: Epilogue::None }
    }

    /// Bytes of the operands, of the result and of what the epilogue reads and writes, each once.
    pub fn moved_bytes(&self) -> usize {
        let &Self { m, n, k, operands, result, accumulate, .. } = self;
        let epilogue = match self.epilogue {
            Epilogue::None => 0,
            Epilogue::Bias(_) => n,
            Epilogue::GeluBias { .. } => n + m * n,
            Epilogue::GeluSlope { .. } => m * n,
        };
        let results = if accumulate { 2 } else { 1 };
        (m * k + k * n + epilogue) * operands.bytes() + results * m * n * result.bytes()
    }
}

/// What an emulated GPU has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// The time that a GPU would have taken, as an estimate.
    pub seconds: f64,
    /// To and from memory ([`Driver::moved_bytes`]).
    pub moved_bytes: u64,
}

/// An event on a GPU.
pub enum Event {
    /// A CUDA event.
    Cuda(cudarc::driver::CudaEvent),
    /// What the emulator had done by then.
    Emulated(Done),
    /// On the emulator's communication stream.
    EmulatedFork {
        /// The number of calls on that stream by then, or of those in the capture.
        calls: usize,
        /// The capture in which it was recorded.
        capture: Option<usize>,
    },
}

/// A GPU, real or emulated. Calls are queued in order on one stream, and after [`Driver::begin_fork`] on another;
/// [`Driver::download`] waits.
///
/// Addresses come from [`Driver::allocate`], or point into such a block.
pub trait Driver: Send + Sync {
    /// The name for users: `NVIDIA H100 80GB HBM3`.
    fn describe(&self) -> String {
        self.name()
    }
    /// The name of this kind of GPU.
    fn name(&self) -> String;
    /// Constant.
    fn limits(&self) -> Limits;
    /// Whether elapsed times are estimates.
    fn estimates(&self) -> bool {
        false
    }
    /// Uninitialised memory; `None` if there is no room.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>, DeviceError>;
    /// Frees a block.
    fn free(&self, address: u64);
    /// Bytes that are free, if known.
    fn free_bytes(&self) -> Option<usize>;
    /// Host to device.
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;
    /// Device to host.
    fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError>;
    /// As [`Driver::upload`], on the copy stream; only [`Driver::swap_in`] waits for it.
    fn upload_async(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;
    /// Copies each `(to, from, bytes)` after all asynchronous uploads; later ones wait for these copies.
    fn swap_in(&self, copies: &[(u64, u64, usize)]) -> Result<(), DeviceError>;
    /// Starts a download of `len` f32 ordered after all calls so far; returns at once.
    fn download_async(&self, from: u64, len: usize) -> Result<Pending, DeviceError>;
    /// Device to device.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError>;
    /// Fills with zeros.
    fn zero(&self, to: u64, bytes: usize) -> Result<(), DeviceError>;
    /// Marks memory as uninitialised; only the emulator checks that.
    fn mark_uninit(&self, _address: u64, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Launches a kernel.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;
    /// Computes a matrix product.
    fn gemm(&self, gemm: &Gemm) -> Result<(), DeviceError>;
    /// Captures launches, products, copies, transfers and forks, instead of executing them, until
    /// [`Driver::end_capture`]. Forked calls must be joined before it, and events of a capture cannot be used outside.
    fn begin_capture(&self) -> Result<(), DeviceError>;
    /// The captured calls.
    fn end_capture(&self) -> Result<Box<dyn Graph>, DeviceError>;
    /// An event after all calls so far on the stream that they are queued on.
    fn record_event(&self) -> Result<Event, DeviceError>;
    /// Seconds from one event of this driver to another; waits for both.
    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DeviceError>;
    /// Bytes moved to and from memory between two events of this driver, if
    /// [it counts them](crate::device::Device::moved_bytes).
    fn moved_bytes(&self, _from: &Event, _to: &Event) -> Option<u64> {
        None
    }
    /// [What each kernel did](crate::device::Device::take_kernels).
    fn take_kernels(&self) -> Vec<KernelCounts> {
        Vec::new()
    }
    /// Clocks, power and temperature, where they are known.
    fn gpu_state(&self) -> Option<GpuState> {
        None
    }
    /// Moves words between the GPUs of all ranks, after all calls so far.
    fn transfer(&self, nccl: &Arc<Nccl>, transfer: Transfer) -> Result<(), DeviceError>;
    /// Queues launches, copies and transfers on the communication stream, after all calls so far, until
    /// [`Driver::end_fork`].
    fn begin_fork(&self) -> Result<(), DeviceError>;
    /// Queues calls on the main stream again.
    fn end_fork(&self);
    /// Lets later calls wait for those on the communication stream.
    fn join(&self) -> Result<(), DeviceError>;
    /// Lets later calls on the main stream wait for an event.
    fn wait_event(&self, event: &Event) -> Result<(), DeviceError>;
}
