//! NVIDIA GPUs, real and emulated: one device over a small [`Driver`].
//!
//! build.rs compiles the kernels in `kernels/`; the `cuda.rs` of each op launches them. Matrix products go to cuBLASLt
//! (emulated: to the CPU, with the same operands). Activations are bf16 ([`Cuda<bf16>`](Cuda)), with f32 statistics,
//! sums, master weights and moments; `Cuda<f32>` runs the f32 instances of the same kernels, so that they can be tested
//! with tighter tolerances.

mod cublaslt;
mod driver;
#[cfg(feature = "emulator")]
mod emulated;
#[cfg(feature = "emulator")]
mod estimate;
pub mod hash;
pub mod kernels;
mod nvidia;
mod nvml;
mod staging;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

pub(crate) use driver::args;
pub use driver::{Arg, DType, Done, Driver, Epilogue, Event, Gemm, Launch, LaunchConfig, Limits, Operand};
#[cfg(feature = "emulator")]
pub use emulated::{Emulated, EmulatorOptions};
pub use nvidia::Gpu;

use crate::group::{Gathered, Group, Message, Nccl, Transfer};

use super::{Blocks, Device, DeviceError, Elem, Float, GpuState, Graph, KernelCounts, Pending, ProbeSizes, Stopwatch};

/// The types of activations on a GPU.
pub trait ActType: Float {
    /// The suffix of kernel names.
    const SUFFIX: &'static str;
    /// Elements in 16 bytes, the unit in which kernels read and write.
    const PACK: usize;
    /// As an operand of a product.
    const DTYPE: DType;
    /// Whether products read a copy of the weights.
    const SHADOW: bool;
}

impl ActType for bf16 {
    const SUFFIX: &'static str = "bf16";
    const PACK: usize = 8;
    const DTYPE: DType = DType::Bf16;
    const SHADOW: bool = true;
}

impl ActType for f32 {
    const SUFFIX: &'static str = "f32";
    const PACK: usize = 4;
    const DTYPE: DType = DType::F32;
    const SHADOW: bool = false;
}

/// A GPU that computes with activations of type `T`.
pub struct Cuda<T> {
    driver: Arc<dyn Driver>,
    held: Arc<Mutex<Vec<(String, usize)>>>,
    /// The connection to the GPUs of other ranks.
    nccl: Option<Arc<Nccl>>,
    activations: PhantomData<T>,
}

impl<T: ActType> Cuda<T> {
    /// The device of a driver.
    ///
    /// # Errors
    /// If the program was built without kernels.
    pub fn new(driver: Arc<dyn Driver>) -> Result<Self, DeviceError> {
        if kernels::KERNELS.is_empty() {
            return Err(DeviceError::NoKernels);
        }
        Ok(Self { driver, held: Arc::default(), nccl: None, activations: PhantomData })
    }

    /// The same, moving data to the GPUs of other ranks by `nccl`, if there is one, and not through the host.
    pub fn connected(self, nccl: Option<Arc<Nccl>>) -> Self {
        Self { nccl, ..self }
    }

    /// Calls `kernels/{module}.cu`'s `{kernel}`.
    ///
    /// # Errors
    /// If a size does not fit an `int`, or if the launch fails.
    pub fn launch(
        &self,
        module: &'static str,
        kernel: &str,
        config: LaunchConfig,
        args: &[Arg],
    ) -> Result<(), DeviceError> {
        self.driver.launch(&Launch::new(module, kernel, config, args)?)
    }

    /// Calls `kernels/{module}.cu`'s `{kernel}_{bf16 or f32}`; errors as for [`Self::launch`].
    pub fn launch_typed(
        &self,
        module: &'static str,
        kernel: &str,
        config: LaunchConfig,
        args: &[Arg],
    ) -> Result<(), DeviceError> {
        self.launch(module, &format!("{kernel}_{}", T::SUFFIX), config, args)
    }

    /// The GPU's driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Checks that `width` is a whole number of packs of 16 bytes, as kernels require of the last axis.
    ///
    /// # Errors
    /// If `width` is not a multiple of a pack.
    pub fn check_width(op: &'static str, width: usize) -> Result<(), DeviceError> {
        match width.is_multiple_of(T::PACK) {
            true => Ok(()),
            false => Err(DeviceError::Unsupported {
                what: format!("{op}: a width of {width}; on a GPU it must be a multiple of {}", T::PACK),
            }),
        }
    }
}

/// One allocation.
pub struct CudaMemory {
    driver: Arc<dyn Driver>,
    held: Arc<Mutex<Vec<(String, usize)>>>,
    address: u64,
    bytes: usize,
    purpose: String,
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        self.driver.free(self.address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.iter().position(|(purpose, bytes)| *purpose == self.purpose && *bytes == self.bytes) {
            held.swap_remove(at);
        }
    }
}

/// Elements in a GPU's memory.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for View<'_, T> {}

/// Elements in a GPU's memory, exclusively.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut T>,
}

macro_rules! view_methods {
    ($view:ident) => {
        impl<'a, T> $view<'a, T> {
            /// The address on the device.
            pub fn address(&self) -> u64 {
                self.address
            }

            /// How many elements there are.
            pub fn len(&self) -> usize {
                self.len
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> bool {
                self.len == 0
            }

            /// The first `len` elements, and the others.
            ///
            /// # Panics
            /// If there are fewer than `len`.
            pub fn split_at(self, len: usize) -> ($view<'a, T>, $view<'a, T>) {
                assert!(len <= self.len, "a view is split past its end");
                let part = |address, len| $view { address, len, memory: PhantomData };
                (part(self.address, len), part(self.address + (len * size_of::<T>()) as u64, self.len - len))
            }
        }

        /// The address of the first element.
        impl<T> From<&$view<'_, T>> for Arg {
            fn from(view: &$view<'_, T>) -> Self {
                Self::new(view.address)
            }
        }

        impl<T> From<&&$view<'_, T>> for Arg {
            fn from(view: &&$view<'_, T>) -> Self {
                Self::from(*view)
            }
        }

        /// The address of the first element, or a null pointer.
        impl<T> From<&Option<$view<'_, T>>> for Arg {
            fn from(view: &Option<$view<'_, T>>) -> Self {
                Self::new(view.as_ref().map_or(0, |view| view.address))
            }
        }
    };
}
view_methods!(View);
view_methods!(ViewMut);

impl<T> ViewMut<'_, T> {
    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, memory: PhantomData }
    }
}

impl<T: ActType> Device for Cuda<T> {
    type Act = T;
    type Memory = CudaMemory;
    type View<'a, E: Elem> = View<'a, E>;
    type ViewMut<'a, E: Elem> = ViewMut<'a, E>;
    type Event = Event;

    const SHADOW_WEIGHTS: bool = T::SHADOW;
    const CAPTURES: bool = true;

    fn describe(&self) -> String {
        format!("{}, {}", self.driver.describe(), T::SUFFIX)
    }

    fn arithmetic(&self) -> String {
        format!("{}, {}", self.driver.name(), T::SUFFIX)
    }

    fn gemm_is_bf16(&self) -> bool {
        T::DTYPE == DType::Bf16
    }

    fn allocate(&self, bytes: usize, purpose: &str) -> Result<CudaMemory, DeviceError> {
        let memory = self.allocate_unwritten(bytes, purpose)?;
        self.driver.zero(memory.address, bytes)?;
        Ok(memory)
    }

    fn allocate_unwritten(&self, bytes: usize, purpose: &str) -> Result<CudaMemory, DeviceError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.driver.allocate(bytes.max(16))?.ok_or_else(|| DeviceError::OutOfMemory {
            device: "cuda",
            purpose: purpose.to_owned(),
            asked: bytes,
            free: self.driver.free_bytes(),
            held: held.clone(),
            advice: None,
        })?;
        held.push((purpose.to_owned(), bytes));
        let (driver, purpose) = (self.driver.clone(), purpose.to_owned());
        Ok(CudaMemory { driver, held: self.held.clone(), address, bytes, purpose })
    }

    unsafe fn view<E: Elem>(memory: &CudaMemory, offset_bytes: usize, len: usize) -> View<'_, E> {
        debug_assert!(offset_bytes + len * size_of::<E>() <= memory.bytes);
        View { address: memory.address + offset_bytes as u64, len, memory: PhantomData }
    }

    unsafe fn view_mut<E: Elem>(memory: &CudaMemory, offset_bytes: usize, len: usize) -> ViewMut<'_, E> {
        debug_assert!(offset_bytes + len * size_of::<E>() <= memory.bytes);
        ViewMut { address: memory.address + offset_bytes as u64, len, memory: PhantomData }
    }

    fn mark_uninit<E: Elem>(&self, view: ViewMut<'_, E>) -> Result<(), DeviceError> {
        self.driver.mark_uninit(view.address, view.len * size_of::<E>())
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.driver.begin_capture()
    }

    fn end_capture(&self) -> Result<Option<Box<dyn Graph>>, DeviceError> {
        self.driver.end_capture().map(Some)
    }

    fn probe_sizes(&self) -> Option<ProbeSizes> {
        (!self.driver.estimates()).then_some(ProbeSizes {
            name: self.describe(),
            copy_bytes: 1 << 30,
            reads_before_writing: false,
            product_side: 8192,
        })
    }

    fn record_event(&self) -> Result<Event, DeviceError> {
        self.driver.record_event()
    }

    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DeviceError> {
        self.driver.seconds(from, to)
    }

    fn moved_bytes(&self, from: &Event, to: &Event) -> Option<u64> {
        self.driver.moved_bytes(from, to)
    }

    fn take_kernels(&self) -> Vec<KernelCounts> {
        self.driver.take_kernels()
    }

    fn gpu_state(&self) -> Option<GpuState> {
        self.driver.gpu_state()
    }

    fn upload<E: Elem>(&self, to: ViewMut<'_, E>, from: &[E]) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len(), "lengths of an upload");
        self.driver.upload(to.address, bytemuck::cast_slice(from))
    }

    fn upload_async<E: Elem>(&self, to: ViewMut<'_, E>, from: &[E]) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len(), "lengths of an upload");
        self.driver.upload_async(to.address, bytemuck::cast_slice(from))
    }

    fn add_into<E: Float>(&self, into: ViewMut<'_, E>, from: View<'_, E>) -> Result<(), DeviceError> {
        assert_eq!(into.len, from.len, "lengths of a sum");
        let config = LaunchConfig::for_elements(into.len, 16 / size_of::<E>(), 256);
        let kernel = format!("add_into_{}", E::NAME.to_lowercase());
        self.launch("add", &kernel, config, args![into, from, Arg::size(into.len)])
    }

    fn copy<E: Elem>(&self, into: ViewMut<'_, E>, from: View<'_, E>) -> Result<(), DeviceError> {
        assert_eq!(into.len, from.len, "lengths of a copy");
        self.driver.copy(into.address, from.address, into.len * size_of::<E>())
    }

    fn free_bytes(&self) -> Option<usize> {
        self.driver.free_bytes()
    }

    fn swap_in(&self, copies: Vec<(ViewMut<'_, u8>, View<'_, u8>)>) -> Result<(), DeviceError> {
        assert!(copies.iter().all(|(to, from)| to.len == from.len), "lengths of copies");
        let copies: Vec<_> = copies.iter().map(|(to, from)| (to.address, from.address, to.len)).collect();
        self.driver.swap_in(&copies)
    }

    fn download_async(&self, from: View<'_, f32>) -> Result<Pending, DeviceError> {
        self.driver.download_async(from.address, from.len)
    }

    fn download<E: Elem>(&self, to: &mut [E], from: View<'_, E>) -> Result<(), DeviceError> {
        assert_eq!(to.len(), from.len, "lengths of a download");
        self.driver.download(bytemuck::cast_slice_mut(to), from.address)
    }

    fn all_gather(&self, group: &dyn Group, parts: Vec<Blocks<'_, Self>>) -> Result<(), DeviceError> {
        let Some(nccl) = &self.nccl else { return self.all_gather_on_host(group, parts) };
        let words = |bytes: usize| bytes / size_of::<u32>();
        let part = |part: &Blocks<'_, Self>| Gathered {
            address: part.view.address,
            block: words(part.block),
            len: words(part.len),
        };
        self.driver.transfer(nccl, Transfer::AllGather(parts.iter().map(part).collect()))
    }

    fn connects_ranks(&self) -> bool {
        self.nccl.is_some()
    }

    fn fork<R>(&self, body: impl FnOnce() -> Result<R, DeviceError>) -> Result<R, DeviceError> {
        // Without it, ranks exchange through the host, which does not wait for a stream of their own.
        if self.nccl.is_none() {
            return body();
        }
        self.driver.begin_fork()?;
        let result = body();
        self.driver.end_fork();
        result
    }

    fn join(&self) -> Result<(), DeviceError> {
        if self.nccl.is_none() {
            return Ok(());
        }
        self.driver.join()
    }

    fn wait_event(&self, event: &Event) -> Result<(), DeviceError> {
        self.driver.wait_event(event)
    }

    fn stopwatch(&self, watch: ViewMut<'_, f32>, stop: bool) -> Result<(), DeviceError> {
        debug_assert_eq!(watch.len, Stopwatch::<Self>::LEN);
        self.launch("stopwatch", "stopwatch", LaunchConfig::blocks(1, 1), args![watch, stop])
    }

    fn all_to_all(
        &self,
        sends: Vec<(usize, View<'_, f32>)>,
        receives: Vec<(usize, ViewMut<'_, f32>)>,
    ) -> Result<(), DeviceError> {
        let Some(nccl) = &self.nccl else {
            return Err(DeviceError::Unsupported { what: "an exchange between ranks without NCCL".to_owned() });
        };
        let sends = sends.iter().map(|(rank, view)| Message { rank: *rank, address: view.address, words: view.len });
        let receives =
            receives.iter().map(|(rank, view)| Message { rank: *rank, address: view.address, words: view.len });
        let (sends, receives) = (sends.collect(), receives.collect());
        self.driver.transfer(nccl, Transfer::AllToAll { sends, receives })
    }

    fn on_host<E: Elem, R>(
        &self,
        view: ViewMut<'_, E>,
        read: Range<usize>,
        body: impl FnOnce(&mut [E]) -> R,
    ) -> Result<R, DeviceError> {
        let mut words = vec![0u32; (view.len * size_of::<E>()).div_ceil(size_of::<u32>())];
        let values = &mut bytemuck::cast_slice_mut::<u32, E>(&mut words)[..view.len];
        let address = view.address + (read.start * size_of::<E>()) as u64;
        self.driver.download(bytemuck::cast_slice_mut(&mut values[read]), address)?;
        let result = body(values);
        self.upload(view, values)?;
        Ok(result)
    }
}
