//! Matrix products by cuBLASLt: a thin wrapper that chooses an algorithm once per kind of product and keeps the plan.
//!
//! The library proposes several algorithms; the first is often not the fastest (on an H200, up to 1.2 times slower). So
//! they are timed when a large product is first computed, and the fastest is kept of those that give the first one's
//! bits: results do not depend on what was measured. The results are compared whole, by [`fingerprint`]s. Algorithms
//! that sum in another order may agree on zeros, constants or equal rows; such data decides nothing, and the product is
//! timed when it is next computed.
//!
//! cuBLASLt is column-major: a row-major `d = a b` is its `dᵀ = bᵀ aᵀ`, so operands and sizes are swapped, and its bias
//! of rows is ours of columns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtEpilogue_t as LtEpilogue, cublasLtMatmulDescAttributes_t as Desc,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType as DataType,
};
use cudarc::driver::sys::{CUevent_flags, CUstreamCaptureStatus};
use cudarc::driver::{CudaStream, DriverError, result as driver};

use super::driver::{DType, Driver, Epilogue, Gemm};
use super::hash::{Fingerprint, fingerprint};
use crate::device::DeviceError;

/// Bytes of workspace: the 32 MiB that cuBLAS's documentation recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The alignment of every operand in bytes; the library's default is 256.
const ALIGNMENT: u32 = 16;

/// Parts of a long inner dimension are added in f32, never rounded to the result's type in between.
const REDUCTION: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// How many algorithms the library may propose.
const CANDIDATES: usize = 8;

/// Products of fewer FLOPs take the first proposal.
const WORTH_TIMING: usize = 1 << 31;

/// Timed calls of each candidate.
const CALLS: usize = 3;

/// How often a product may have data that decides nothing, before it keeps the first proposal.
const ATTEMPTS: usize = 4;

/// A product without its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    m: usize,
    n: usize,
    k: usize,
    transposed: (bool, bool),
    operands: DType,
    result: DType,
    accumulate: bool,
    epilogue: LtEpilogue,
}

impl Kind {
    fn of(call: &Gemm) -> Self {
        let &Gemm { m, n, k, a, b, operands, result, accumulate, .. } = call;
        let epilogue = match call.epilogue {
            Epilogue::None => LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias(_) => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::GeluBias { .. } => LtEpilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::GeluSlope { .. } => LtEpilogue::CUBLASLT_EPILOGUE_DGELU,
        };
        Self { m, n, k, transposed: (a.transposed, b.transposed), operands, result, accumulate, epilogue }
    }
}

/// Descriptors and the chosen algorithm; kept until the program ends.
struct Planned {
    desc: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// The library's other proposals, until one is chosen.
    others: Vec<sys::cublasLtMatmulAlgo_t>,
    /// Calls so far whose data decided nothing.
    attempts: usize,
}

/// The library's handle, its workspace and the plans made so far.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: Mutex<HashMap<Kind, Planned>>,
}

// SAFETY: the handle and the descriptors are plain data of the library; all calls that change or use them hold `plans`.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

fn data_type(number: DType) -> DataType {
    match number {
        DType::F32 => DataType::CUDA_R_32F,
        DType::Bf16 => DataType::CUDA_R_16BF,
    }
}

fn failed(kind: &Kind, call: &str) -> impl FnOnce(CublasError) -> DeviceError {
    let call = format!("cuBLASLt: {call} for {kind:?}");
    move |error| DeviceError::Driver { call, problem: error.to_string() }
}

/// The bytes of an attribute.
fn bytes<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}

impl CublasLt {
    pub(super) fn new() -> Result<Self, DeviceError> {
        let wrong = |call: &str, problem: String| DeviceError::Driver { call: call.to_owned(), problem };
        let handle = result::create_handle().map_err(|error| wrong("cublasLtCreate", error.to_string()))?;
        // SAFETY: the library writes the workspace before it reads it.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(|error| wrong("allocating cuBLASLt's workspace", error.to_string()))?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }

    /// Puts the product on the stream of `gpu`.
    pub(super) fn run(&self, call: &Gemm, stream: &CudaStream, gpu: &dyn Driver) -> Result<(), DeviceError> {
        let kind = Kind::of(call);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(&kind)?),
        };
        if !plan.others.is_empty() {
            self.choose(plan, call, stream, gpu)?;
        }
        self.start(plan, &plan.algorithm, call, stream)
    }

    /// Queues the product on the stream with one of its plan's algorithms.
    fn start(
        &self,
        plan: &Planned,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        call: &Gemm,
        stream: &CudaStream,
    ) -> Result<(), DeviceError> {
        let kind = Kind::of(call);
        let error = |what| failed(&kind, what);
        let pointer = |attribute, address: u64| {
            let (value, size) = bytes(&address);
            // SAFETY: the descriptor is alive and the attribute is a pointer.
            unsafe { result::set_matmul_desc_attribute(plan.desc, attribute, value, size) }
                .map_err(error("setting a pointer"))
        };
        match call.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) => pointer(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?,
            Epilogue::GeluBias { bias, pre } => {
                pointer(Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
                pointer(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pre)?;
            }
            Epilogue::GeluSlope { pre } => pointer(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pre)?,
        }
        let (alpha, beta) = (1.0f32, if call.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: descriptors and algorithm belong together; operands were allocated with these sizes.
        unsafe {
            result::matmul(
                self.handle,
                plan.desc,
                bytes(&alpha).0,
                bytes(&beta).0,
                call.b.address as *const c_void,
                plan.a,
                call.a.address as *const c_void,
                plan.b,
                call.d as *const c_void,
                plan.d,
                call.d as *mut c_void,
                plan.d,
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
        .map_err(error("the product"))
    }

    /// Chooses the fastest of the proposed algorithms that give the first one's bits. Each is run on the call's
    /// operands, so a product that accumulates takes the first, as does a small one. Nothing is decided during a
    /// capture: the graph keeps the first.
    fn choose(
        &self,
        plan: &mut Planned,
        call: &Gemm,
        stream: &CudaStream,
        gpu: &dyn Driver,
    ) -> Result<(), DeviceError> {
        if stream.capture_status().map_err(timing)? != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Ok(());
        }
        if call.accumulate || 2 * call.m * call.n * call.k < WORTH_TIMING {
            plan.others.clear();
            return Ok(());
        }
        let results = results(call);
        let outcome = |algorithm| -> Result<Vec<Fingerprint>, DeviceError> {
            // So that what an algorithm leaves unwritten shows.
            results.iter().try_for_each(|(address, bytes)| gpu.zero(*address, *bytes))?;
            self.start(plan, algorithm, call, stream)?;
            results.iter().map(|(address, bytes)| fingerprint(gpu, *address, *bytes, self.workspace)).collect()
        };
        let expected = outcome(&plan.algorithm)?;
        let telling = expected.iter().zip(&results).all(|(found, (_, bytes))| found.is_telling(*bytes));
        // A bias alone makes all rows the same. The halves begin at multiples of 16 bytes.
        let half = call.m / 16 * 8 * call.n * call.result.bytes();
        let [top, bottom] = [0, half].map(|from| fingerprint(gpu, call.d + from as u64, half, self.workspace));
        if !telling || top? == bottom? {
            plan.attempts += 1;
            if plan.attempts == ATTEMPTS {
                plan.others.clear();
            }
            return Ok(());
        }
        let time = |algorithm| milliseconds(stream, || self.start(plan, algorithm, call, stream));
        let (mut fastest, mut best) = (time(&plan.algorithm)?, plan.algorithm);
        for other in &plan.others {
            // A proposal may turn out not to be supported.
            let Ok(spent) = time(other) else { continue };
            if spent < fastest && outcome(other)? == expected {
                (fastest, best) = (spent, *other);
            }
        }
        plan.algorithm = best;
        plan.others.clear();
        Ok(())
    }

    fn plan(&self, kind: &Kind) -> Result<Planned, DeviceError> {
        let &Kind { m, n, k, transposed, operands, result: number, epilogue, .. } = kind;
        let error = |call| failed(kind, call);
        let desc = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F)
            .map_err(error("cublasLtMatmulDescCreate"))?;
        let set = |attribute, (value, size): (*const c_void, usize)| {
            // SAFETY: the descriptor is alive, and the value has the attribute's type.
            unsafe { result::set_matmul_desc_attribute(desc, attribute, value, size) }.map_err(error("an attribute"))
        };
        // cublasOperation_t, which cudarc does not define here: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        let flag = |transposed: bool| i32::from(transposed);
        set(Desc::CUBLASLT_MATMUL_DESC_TRANSA, bytes(&flag(transposed.1)))?;
        set(Desc::CUBLASLT_MATMUL_DESC_TRANSB, bytes(&flag(transposed.0)))?;
        set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, bytes(&epilogue))?;
        let with_bias = [LtEpilogue::CUBLASLT_EPILOGUE_BIAS, LtEpilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS];
        if with_bias.contains(&epilogue) {
            set(Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bytes(&data_type(operands)))?;
        }
        let with_pre = [LtEpilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, LtEpilogue::CUBLASLT_EPILOGUE_DGELU];
        if with_pre.contains(&epilogue) {
            set(Desc::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, bytes(&(n as i64)))?;
        }
        // A row-major [rows, columns] is a column-major [columns, rows].
        let layout = |number, rows: usize, columns: usize| {
            result::create_matrix_layout(data_type(number), columns as u64, rows as u64, columns as i64)
                .map_err(error("a layout"))
        };
        let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let (b_rows, b_columns) = stored(k, n, transposed.1);
        let (a_rows, a_columns) = stored(m, k, transposed.0);
        let (a, b, d) =
            (layout(operands, b_rows, b_columns)?, layout(operands, a_rows, a_columns)?, layout(number, m, n)?);
        let preference = result::create_matmul_pref().map_err(error("a preference"))?;
        let prefer = |attribute, (value, size): (*const c_void, usize)| {
            // SAFETY: the preference is alive, and the value has the attribute's type.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, value, size) }
                .map_err(error("a preference"))
        };
        prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, bytes(&WORKSPACE))?;
        prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, bytes(&REDUCTION))?;
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(attribute, bytes(&ALIGNMENT))?;
        }
        let mut found = [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; CANDIDATES];
        let mut count = 0;
        // SAFETY: all descriptors are alive, and there is room for as many results as are asked for.
        unsafe {
            let (room, max) = (found.as_mut_ptr().cast(), CANDIDATES as i32);
            let asked =
                sys::cublasLtMatmulAlgoGetHeuristic(self.handle, desc, a, b, d, d, preference, max, room, &mut count);
            result::destroy_matmul_pref(preference).map_err(error("a preference"))?;
            asked.result().map_err(error("no algorithm"))?;
        }
        // SAFETY: the library has written that many.
        let found = found.iter().take(count as usize).map(|result| unsafe { result.assume_init_ref() });
        let mut usable =
            found.filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).map(|result| result.algo);
        let none = || error("no algorithm")(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        let algorithm = usable.next().ok_or_else(none)?;
        Ok(Planned { desc, a, b, d, algorithm, others: usable.collect(), attempts: 0 })
    }
}

fn timing(error: DriverError) -> DeviceError {
    DeviceError::Driver { call: "timing a product".to_owned(), problem: error.to_string() }
}

/// The time of [`CALLS`] calls of `run`, after one to warm up.
fn milliseconds(stream: &CudaStream, run: impl Fn() -> Result<(), DeviceError>) -> Result<f32, DeviceError> {
    let mark = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(timing);
    run()?;
    let start = mark()?;
    (0..CALLS).try_for_each(|_| run())?;
    start.elapsed_ms(&mark()?).map_err(timing)
}

/// Addresses and bytes of what a product writes.
fn results(call: &Gemm) -> Vec<(u64, usize)> {
    let len = call.m * call.n;
    let mut results = vec![(call.d, len * call.result.bytes())];
    if let Epilogue::GeluBias { pre, .. } = call.epilogue {
        results.push((pre, len * call.operands.bytes()));
    }
    results
}
