//! Matrix products by cuBLASLt: a thin wrapper that chooses an algorithm once per kind of product and keeps the plan.
//!
//! cuBLASLt is column-major: a row-major `d = a b` is its `dᵀ = bᵀ aᵀ`, so operands and sizes change places, and what it
//! calls a bias of rows is ours of columns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as Compute, cublasLtEpilogue_t as LtEpilogue, cublasLtMatmulDescAttributes_t as Desc,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType as DataType,
};
use cudarc::driver::sys::CUstream;

use super::driver::{Epilogue, Number, Product};
use crate::device::DeviceError;

/// What Hopper's algorithms may ask for (cuBLAS's documentation recommends 32 MiB there).
const WORKSPACE: usize = 32 << 20;

/// What every operand is aligned to, in bytes; without being told, the library expects 256.
const ALIGNMENT: u32 = 16;

/// All of a product but its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    m: usize,
    n: usize,
    k: usize,
    transposed: (bool, bool),
    operands: Number,
    result: Number,
    accumulate: bool,
    epilogue: LtEpilogue,
}

/// Descriptors and the chosen algorithm; kept until the program ends.
struct Planned {
    desc: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle, its workspace and the plans made so far.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: Mutex<HashMap<Kind, Planned>>,
}

// SAFETY: the handle and the descriptors are plain data of the library; all calls that change or use them hold `plans`.
unsafe impl Send for Products {}
unsafe impl Sync for Products {}

fn data_type(number: Number) -> DataType {
    match number {
        Number::F32 => DataType::CUDA_R_32F,
        Number::Bf16 => DataType::CUDA_R_16BF,
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

impl Products {
    pub fn new() -> Result<Self, DeviceError> {
        let wrong = |call: &str, problem: String| DeviceError::Driver { call: call.to_owned(), problem };
        let handle = result::create_handle().map_err(|error| wrong("cublasLtCreate", error.to_string()))?;
        // SAFETY: scratch that the library writes before it reads it.
        let workspace = unsafe { cudarc::driver::result::malloc_sync(WORKSPACE) };
        let workspace = workspace.map_err(|error| wrong("allocating cuBLASLt's workspace", error.to_string()))?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }

    /// Puts the product on the stream.
    pub fn run(&self, call: &Product, stream: CUstream) -> Result<(), DeviceError> {
        let &Product { m, n, k, a, b, operands, result: number, accumulate, .. } = call;
        let epilogue = match call.epilogue {
            Epilogue::None => LtEpilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias(_) => LtEpilogue::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::GeluBias { .. } => LtEpilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::GeluSlope { .. } => LtEpilogue::CUBLASLT_EPILOGUE_DGELU,
        };
        let transposed = (a.transposed, b.transposed);
        let kind = Kind { m, n, k, transposed, operands, result: number, accumulate, epilogue };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(&kind)?),
        };
        let pointer = |attribute, address: u64| {
            let (value, size) = bytes(&address);
            // SAFETY: the descriptor is alive and the attribute is a pointer.
            unsafe { result::set_matmul_desc_attribute(plan.desc, attribute, value, size) }
                .map_err(failed(&kind, "setting a pointer"))
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
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: descriptors and algorithm belong together; operands were allocated with these sizes.
        unsafe {
            result::matmul(
                self.handle,
                plan.desc,
                bytes(&alpha).0,
                bytes(&beta).0,
                b.address as *const c_void,
                plan.a,
                a.address as *const c_void,
                plan.b,
                call.d as *const c_void,
                plan.d,
                call.d as *mut c_void,
                plan.d,
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        }
        .map_err(failed(&kind, "the product"))
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
        // cublasOperation_t, which cudarc does not name here: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
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
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(attribute, bytes(&ALIGNMENT))?;
        }
        // SAFETY: all descriptors are alive.
        let found = unsafe {
            let found = result::get_matmul_algo_heuristic(self.handle, desc, a, b, d, d, preference);
            result::destroy_matmul_pref(preference).map_err(error("a preference"))?;
            found
        };
        let algorithm = found.map_err(error("no algorithm"))?.algo;
        Ok(Planned { desc, a, b, d, algorithm })
    }
}
