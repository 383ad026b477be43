//! What a GPU must be able to do: the seam between the real one and the emulated one. Everything above it is the same.

use crate::device::{DeviceError, GpuState, Graph, KernelCounts, Pending};

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

/// A kernel call.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The file under `kernels/`, without its extension.
    pub module: &'static str,
    /// The kernel in it.
    pub kernel: &'a str,
    /// Its grid, block and shared memory.
    pub config: LaunchConfig,
    /// Its arguments, in order.
    pub args: &'a [Arg],
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

    /// The size behind this argument, if it does not fit an `int`.
    pub fn too_large(&self) -> Option<usize> {
        self.too_large
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

impl From<&i32> for Arg {
    fn from(value: &i32) -> Self {
        Self::new(*value)
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
    F32,
    Bf16,
}

impl DType {
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
    pub address: u64,
    /// It lies in memory as its transpose.
    pub transposed: bool,
}

impl Operand {
    pub fn plain(address: u64) -> Self {
        Self { address, transposed: false }
    }

    pub fn transposed(address: u64) -> Self {
        Self { address, transposed: true }
    }
}

/// What happens to a product before it is stored; vectors and matrices are of the operands' number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    None,
    /// Adds `[n]` to each row.
    Bias(u64),
    /// Adds the bias, stores that `[m, n]` to `pre`, and hands on its tanh-GELU.
    GeluBias {
        bias: u64,
        pre: u64,
    },
    /// Multiplies by the tanh-GELU's slope at `pre`, `[m, n]`.
    GeluSlope {
        pre: u64,
    },
}

/// `d = epilogue(a b)`, or `d += a b`, with `a: [m, k]`, `b: [k, n]`, `d: [m, n]`; sums in f32.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub operands: DType,
    pub d: u64,
    pub result: DType,
    pub accumulate: bool,
    pub epilogue: Epilogue,
}

/// What a launcher must know of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub sm_count: usize,
    /// Bytes of shared memory that a block may use, if the kernel asks for them.
    pub shared: usize,
}

impl Gemm {
    /// `d = a b` with `[m, n, k]`, all three matrices of one type.
    pub fn new([m, n, k]: [usize; 3], dtype: DType, a: Operand, b: Operand, d: u64) -> Self {
        Self { m, n, k, a, b, operands: dtype, d, result: dtype, accumulate: false, epilogue: Epilogue::None }
    }

    /// Bytes of its operands, its result and what its epilogue reads and writes, each once.
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

/// What an emulated GPU has done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// What a GPU would have taken, as the emulator estimates.
    pub seconds: f64,
    /// To and from memory ([`Driver::moved_bytes`]).
    pub moved_bytes: u64,
}

/// An event on a GPU.
pub enum Event {
    Cuda(cudarc::driver::CudaEvent),
    Emulated(Done),
}

/// A GPU, real or emulated. Calls are carried out in order; [`Driver::download`] and [`Driver::synchronize`] wait.
///
/// Addresses are those that [`Driver::allocate`] returned, or lie inside such a block.
pub trait Driver: Send + Sync {
    /// As it is shown to a user: `NVIDIA H100 80GB HBM3`.
    fn describe(&self) -> String {
        self.name()
    }
    /// The name of this kind of GPU.
    fn name(&self) -> String;
    /// The same for as long as it lives.
    fn limits(&self) -> Limits;
    /// Whether its marks tell estimates.
    fn estimates(&self) -> bool {
        false
    }
    /// Unwritten memory; `None` if there is no room.
    fn allocate(&self, bytes: usize) -> Result<Option<u64>, DeviceError>;
    fn free(&self, address: u64);
    /// Bytes that could be allocated still, where that is known.
    fn free_bytes(&self) -> Option<usize>;
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;
    fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError>;
    /// As [`Driver::upload`], on a stream of its own, in no order with other calls but [`Driver::swap_in`].
    fn upload_async(&self, to: u64, from: &[u8]) -> Result<(), DeviceError>;
    /// Makes the copies `(to, from, bytes)` after all asynchronous uploads; later uploads wait for these copies.
    fn swap_in(&self, copies: &[(u64, u64, usize)]) -> Result<(), DeviceError>;
    /// `len` f32 as they are after all calls so far; nobody waits for them now.
    fn download_async(&self, from: u64, len: usize) -> Result<Pending, DeviceError>;
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError>;
    fn zero(&self, to: u64, bytes: usize) -> Result<(), DeviceError>;
    /// From now on this memory counts as unwritten; only the emulator minds.
    fn mark_uninit(&self, _address: u64, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;
    fn gemm(&self, product: &Gemm) -> Result<(), DeviceError>;
    /// From now on launches, products and copies are recorded instead of made.
    fn begin_capture(&self) -> Result<(), DeviceError>;
    fn end_capture(&self) -> Result<Box<dyn Graph>, DeviceError>;
    /// The moment at which all calls so far are done.
    fn record_event(&self) -> Result<Event, DeviceError>;
    /// Seconds from one mark of this driver to another; waits for both.
    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DeviceError>;
    /// Bytes moved to and from memory between two marks of this driver, where
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
    fn synchronize(&self) -> Result<(), DeviceError>;
}
