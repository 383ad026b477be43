//! A real GPU through NVIDIA's driver, which is loaded at run time.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUfunction, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUresult,
    CUstreamCaptureMode,
};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result};

use super::cublaslt::CublasLt;
use super::driver::{Driver, Event, Gemm, Launch, Limits};
use super::kernels;
use super::nvml::Nvml;
use super::staging::Staging;
use crate::device::{DeviceError, GpuState, Graph, Pending};
use crate::group::{Nccl, Transfer};

/// Ampere: it has bf16 matrix instructions and `cp.async`.
const MIN_CAPABILITY: (i32, i32) = (8, 0);

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Module>,
    functions: HashMap<String, Function>,
}

struct Module(cudarc::driver::sys::CUmodule);

struct Function {
    handle: CUfunction,
    /// Dynamic shared memory that it has opted in to.
    shared: usize,
}

// SAFETY: handles of the driver, which is thread-safe; they are used with the context bound to the calling thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

/// The GPU of one context. Everything runs in order on one stream, but for asynchronous uploads and what is forked.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// For transfers between ranks, while `forked`, with the events before and after them.
    comm_stream: Arc<CudaStream>,
    forked: AtomicBool,
    fork: CudaEvent,
    join: CudaEvent,
    /// For asynchronous uploads, with the events before and after them.
    copy_stream: Arc<CudaStream>,
    taken: CudaEvent,
    arrived: CudaEvent,
    loaded: Mutex<Loaded>,
    staging: Staging,
    cublaslt: CublasLt,
    name: String,
    limits: Limits,
    /// Opened when it is first needed; `None` if that fails.
    nvml: OnceLock<Option<Nvml>>,
}

/// A captured stream.
struct Captured(CudaGraph);

// SAFETY: the driver wants one call to a graph at a time, which holds since this type is not `Sync`. Graphs belong to
// a context, not to a thread.
unsafe impl Send for Captured {}

impl Graph for Captured {
    fn replay(&self) -> Result<(), DeviceError> {
        self.0.launch().map_err(failed("launching a graph"))
    }
}

fn failed(call: impl Into<String>) -> impl FnOnce(DriverError) -> DeviceError {
    let call = call.into();
    move |error| DeviceError::Driver { call, problem: error.to_string() }
}

impl Gpu {
    /// Whether NVIDIA's driver is on this machine.
    pub fn has_driver() -> bool {
        // SAFETY: only asks the system's loader whether the library is there.
        unsafe { cudarc::driver::sys::is_culib_present() }
    }

    /// The GPU with this number.
    ///
    /// # Errors
    /// If there is no driver, no such GPU, or one that is too old.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        let none = |problem: String| DeviceError::NoGpu { problem };
        if !Self::has_driver() {
            return Err(none("there is no NVIDIA driver (libcuda)".to_owned()));
        }
        // SAFETY: only asks the system's loader whether the library is there.
        if !unsafe { cudarc::cublaslt::sys::is_culib_present() } {
            return Err(none(
                "there is no cuBLASLt (libcublasLt, part of CUDA's libraries) on the library path".to_owned(),
            ));
        }
        let context = CudaContext::new(ordinal).map_err(|error| none(error.to_string()))?;
        let capability = context.compute_capability().map_err(|error| none(error.to_string()))?;
        let name = context.name().map_err(|error| none(error.to_string()))?;
        if capability < MIN_CAPABILITY {
            let (major, minor) = capability;
            return Err(none(format!("{name} has compute capability {major}.{minor}; 8.0 (Ampere) is needed")));
        }
        let attribute = |attribute| match context.attribute(attribute) {
            Ok(value) => Ok(usize::try_from(value).unwrap_or_default()),
            Err(error) => Err(failed("asking for the GPU's limits")(error)),
        };
        let limits = Limits {
            sm_count: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        // SAFETY: this device orders its streams itself, so nothing relies on cudarc's events between streams.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let copy_stream = context.new_stream().map_err(failed("making a stream"))?;
        let comm_stream = context.new_stream().map_err(failed("making a stream"))?;
        let event = || context.new_event(None).map_err(failed("making an event"));
        let (taken, arrived, fork, join) = (event()?, event()?, event()?, event()?);
        let (loaded, staging, cublaslt) = (Mutex::default(), Staging::default(), CublasLt::new()?);
        Ok(Self {
            context,
            stream,
            comm_stream,
            forked: AtomicBool::new(false),
            fork,
            join,
            copy_stream,
            taken,
            arrived,
            loaded,
            staging,
            cublaslt,
            name,
            limits,
            nvml: OnceLock::new(),
        })
    }

    fn open_nvml(&self) -> Option<Nvml> {
        let mut bus_id = [0u8; 32];
        // SAFETY: the driver writes at most the given number of bytes, with a zero at the end.
        let result = unsafe {
            cudarc::driver::sys::cuDeviceGetPCIBusId(
                bus_id.as_mut_ptr().cast(),
                bus_id.len() as i32,
                self.context.cu_device(),
            )
        };
        result.result().ok()?;
        Nvml::open(CStr::from_bytes_until_nul(&bus_id).ok()?)
    }

    /// The stream that calls are queued on.
    fn current(&self) -> &CudaStream {
        if self.forked.load(Ordering::Relaxed) { &self.comm_stream } else { &self.stream }
    }

    /// Waits for the main stream.
    fn synchronize(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(failed("waiting for the GPU (a kernel before may have failed)"))
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(failed("binding the context"))
    }

    fn function(&self, call: &Launch) -> Result<CUfunction, DeviceError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) =
            loaded.functions.get(call.kernel).filter(|function| call.config.shared <= function.shared)
        {
            return Ok(function.handle);
        }
        let wrong = |problem: String| DeviceError::Kernel { kernel: call.kernel.to_owned(), problem };
        let text = |text: &str| CString::new(text).map_err(|error| wrong(error.to_string()));
        if !loaded.modules.contains_key(call.module) {
            let ptx =
                kernels::ptx(call.module).ok_or_else(|| wrong(format!("there is no kernels/{}.cu", call.module)))?;
            let ptx = text(ptx)?;
            // SAFETY: the text ends with a zero, as PTX must.
            let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) }.map_err(|error| {
                wrong(match error.0 {
                    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                        "the NVIDIA driver is too old for the kernels; CUDA 12.0 (driver 525) or newer is needed"
                            .to_owned()
                    }
                    _ => format!("the driver cannot load kernels/{}.cu: {error}", call.module),
                })
            })?;
            loaded.modules.insert(call.module, Module(module));
        }
        let name = text(call.kernel)?;
        // SAFETY: modules are never unloaded.
        let function = unsafe { result::module::get_function(loaded.modules[call.module].0, name) };
        let function = function.map_err(|error| wrong(error.to_string()))?;
        let shared = call.config.shared;
        // The 48 KB limit without opt-in includes static shared memory, so always opt in.
        if shared > 0 {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just loaded.
            unsafe { result::function::set_function_attribute(function, attribute, shared as i32) }
                .map_err(|error| wrong(format!("{shared} bytes of shared memory: {error}")))?;
        }
        loaded.functions.insert(call.kernel.to_owned(), Function { handle: function, shared });
        Ok(function)
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>, DeviceError> {
        self.bind()?;
        // SAFETY: nothing is read before it is written (`Device::allocate` zeroes).
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(failed(format!("an allocation of {bytes} bytes"))(error)),
        }
    }

    fn free(&self, address: u64) {
        // Work on the streams may still use the memory. There is no error to return; the next driver call reports it.
        let others = [&self.copy_stream, &self.comm_stream];
        if self.bind().and_then(|()| self.synchronize()).is_ok()
            && others.iter().all(|stream| stream.synchronize().is_ok())
        {
            // SAFETY: `address` came from `allocate`, and nothing runs any more.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn free_bytes(&self) -> Option<usize> {
        self.bind().ok()?;
        result::mem_get_info().ok().map(|(free, _)| free)
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let staged = self.staging.upload(&self.context, &self.stream, to, from);
        staged.map_err(failed(format!("an upload of {} bytes", from.len())))
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the range was allocated; `to` lives until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(failed(format!("a download of {} bytes", to.len())))?;
        self.synchronize()
    }

    fn upload_async(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.bind()?;
        let wrong = || failed(format!("an asynchronous upload of {} bytes", from.len()));
        self.copy_stream.wait(&self.taken).map_err(wrong())?;
        self.staging.upload(&self.context, &self.copy_stream, to, from).map_err(wrong())
    }

    fn swap_in(&self, copies: &[(u64, u64, usize)]) -> Result<(), DeviceError> {
        let wrong = || failed("swapping in uploads");
        self.arrived.record(&self.copy_stream).map_err(wrong())?;
        self.stream.wait(&self.arrived).map_err(wrong())?;
        copies.iter().try_for_each(|&(to, from, bytes)| self.copy(to, from, bytes))?;
        self.taken.record(&self.stream).map_err(wrong())
    }

    fn transfer(&self, nccl: &Arc<Nccl>, transfer: Transfer) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the addresses are those of views, which lie in allocated memory; all use of it is on this stream,
        // or ordered by `begin_fork`, and by `join` or `wait_event`.
        Ok(unsafe { nccl.start(&transfer, self.current().cu_stream() as u64) }?)
    }

    fn begin_fork(&self) -> Result<(), DeviceError> {
        let wrong = || failed("forking a stream");
        self.fork.record(&self.stream).map_err(wrong())?;
        self.comm_stream.wait(&self.fork).map_err(wrong())?;
        self.forked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_fork(&self) {
        self.forked.store(false, Ordering::Relaxed);
    }

    fn join(&self) -> Result<(), DeviceError> {
        let wrong = || failed("joining a stream");
        self.join.record(&self.comm_stream).map_err(wrong())?;
        self.stream.wait(&self.join).map_err(wrong())
    }

    fn wait_event(&self, event: &Event) -> Result<(), DeviceError> {
        let Event::Cuda(event) = event else {
            return Err(DeviceError::Unsupported { what: "events of another device".to_owned() });
        };
        self.stream.wait(event).map_err(failed("waiting for an event"))
    }

    fn download_async(&self, from: u64, len: usize) -> Result<Pending, DeviceError> {
        self.bind()?;
        let wrong = |error| failed("a download of a step's outcome")(error);
        let wait = self.staging.download(&self.context, &self.stream, from, len).map_err(wrong)?;
        Ok(Box::new(move || wait().map_err(wrong)))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: both ranges were allocated.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.current().cu_stream()) }
            .map_err(failed(format!("a copy of {bytes} bytes")))
    }

    fn zero(&self, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the range was allocated.
        unsafe { result::memset_d8_async(to, 0, bytes, self.current().cu_stream()) }
            .map_err(failed(format!("zeroing {bytes} bytes")))
    }

    fn launch(&self, call: &Launch) -> Result<(), DeviceError> {
        self.bind()?;
        let function = self.function(call)?;
        let mut params: Vec<*mut c_void> = call.args.iter().map(|arg| arg.bytes().as_ptr().cast_mut().cast()).collect();
        let [blocks, threads] = [call.config.blocks, call.config.threads].map(|[x, y, z]| (x, y, z));
        let shared = call.config.shared as u32;
        // SAFETY: the arguments agree with the kernel's declaration, and accesses stay in bounds: the tests run every
        // kernel in emulation, which checks both. The driver copies the arguments before it returns.
        unsafe { result::launch_kernel(function, blocks, threads, shared, self.current().cu_stream(), &mut params) }
            .map_err(|error| DeviceError::Kernel {
                kernel: call.kernel.to_owned(),
                problem: format!("{error}; {:?}", call.config),
            })
    }

    fn gemm(&self, call: &Gemm) -> Result<(), DeviceError> {
        self.bind()?;
        self.cublaslt.run(call, &self.stream, self)
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed("beginning a graph"))
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>, DeviceError> {
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed("ending a graph"))?;
        let graph = graph.ok_or_else(|| DeviceError::Driver {
            call: "ending a graph".to_owned(),
            problem: "nothing was recorded".to_owned(),
        })?;
        graph.upload().map_err(failed("uploading a graph"))?;
        Ok(Box::new(Captured(graph)))
    }

    fn record_event(&self) -> Result<Event, DeviceError> {
        let event = self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed("making an event"))?;
        event.record(self.current()).map_err(failed("recording an event"))?;
        Ok(Event::Cuda(event))
    }

    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DeviceError> {
        let (Event::Cuda(from), Event::Cuda(to)) = (from, to) else {
            return Err(DeviceError::Unsupported { what: "events of another device".to_owned() });
        };
        to.synchronize().map_err(failed("waiting for an event"))?;
        Ok(f64::from(from.elapsed_ms(to).map_err(failed("asking for the time between events"))?) / 1e3)
    }

    fn gpu_state(&self) -> Option<GpuState> {
        self.nvml.get_or_init(|| self.open_nvml()).as_ref().map(Nvml::state)
    }
}
