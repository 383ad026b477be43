//! The memory of an emulated GPU, and what is done on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use ptx_emulator::{Counts, Memory, MemoryError, Module, Options, launch};

use super::EmulatorOptions;
use crate::device::DeviceError;
use crate::device::cuda::driver::{Arg, DType, Done, Epilogue, Gemm, Launch, LaunchConfig, Operand};
use crate::device::cuda::{estimate, kernels};
use crate::device::gemm::{GemmOptions, Operands, Strides, gemm};
use crate::group::{Gathered, Message, Nccl, Transfer, block_of};

/// Bytes of shared memory that a block may use on a GPU of compute capability 9.0.
pub(super) const HOPPER_SHARED: usize = 227 * 1024;

/// A call that can be captured and replayed, or delayed.
pub(super) enum Call {
    Launch { module: &'static str, kernel: String, config: LaunchConfig, args: Vec<Arg> },
    Gemm(Gemm),
    Copy { to: u64, from: u64, bytes: usize },
    Zero { to: u64, bytes: usize },
    MarkUninit { address: u64, bytes: usize },
    Transfer { nccl: Arc<Nccl>, transfer: Transfer, stream: u64 },
}

/// Memory, modules and counts; shared with captured graphs.
pub(super) struct Machine {
    pub(super) memory: Memory,
    pub(super) modules: Mutex<HashMap<&'static str, Arc<Module>>>,
    pub(super) options: EmulatorOptions,
    pub(super) launches: Mutex<BTreeMap<String, Launches>>,
    pub(super) done: Mutex<Done>,
}

/// The launches of one kernel.
#[derive(Default)]
pub(super) struct Launches {
    pub(super) counts: Counts,
    pub(super) number: u64,
    pub(super) seconds: f64,
    /// The largest block's.
    pub(super) threads: u32,
    pub(super) shared_bytes: usize,
}

impl Machine {
    pub(super) fn make(&self, call: &Call) -> Result<(), DeviceError> {
        match call {
            Call::Launch { module, kernel, config, args } => {
                self.launch(&Launch { module, kernel, config: *config, args })
            }
            Call::Gemm(product) => self.gemm(product),
            Call::Copy { to, from, bytes } => {
                let mut content = vec![0; *bytes];
                self.download(&mut content, *from)?;
                self.pass(estimate::copy(2 * bytes), 2 * bytes);
                self.upload(*to, &content)
            }
            Call::Zero { to, bytes } => {
                self.pass(estimate::copy(*bytes), *bytes);
                self.upload(*to, &vec![0; *bytes])
            }
            Call::MarkUninit { address, bytes } => {
                self.memory.mark_uninit(*address, *bytes).map_err(|error| failed("mark_uninit", &error))
            }
            Call::Transfer { nccl, transfer, stream } => self.transfer(nccl, transfer, *stream),
        }
    }

    fn module(&self, name: &'static str) -> Result<Arc<Module>, String> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let ptx = kernels::ptx(name).ok_or_else(|| format!("there is no kernels/{name}.cu"))?;
        let module = Arc::new(Module::parse(ptx).map_err(|error| error.to_string())?);
        modules.insert(name, module.clone());
        Ok(module)
    }

    fn pass(&self, seconds: f64, moved_bytes: usize) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.seconds += seconds;
        done.moved_bytes += moved_bytes as u64;
    }

    fn read(&self, address: u64, len: usize, number: DType) -> Result<Vec<f32>, DeviceError> {
        let mut bytes = vec![0u8; len * number.bytes()];
        self.memory.read_written(address, &mut bytes).map_err(|error| failed("a matrix operand", &error))?;
        Ok(match number {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::Bf16 => {
                let values: Vec<bf16> = bytemuck::pod_collect_to_vec(&bytes);
                values.into_iter().map(bf16::to_f32).collect()
            }
        })
    }

    fn write(&self, address: u64, values: &[f32], number: DType) -> Result<(), DeviceError> {
        match number {
            DType::F32 => self.upload(address, bytemuck::cast_slice(values)),
            DType::Bf16 => {
                let values: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
                self.upload(address, bytemuck::cast_slice(&values))
            }
        }
    }

    pub(super) fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(to, from).map_err(|error| failed("upload", &error))
    }

    pub(super) fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.memory.read_written(from, to).map_err(|error| failed("download", &error))
    }

    /// The library gets copies in the host's memory.
    fn transfer(&self, nccl: &Nccl, transfer: &Transfer, stream: u64) -> Result<(), DeviceError> {
        let download = |from: u64, words: usize| {
            let mut copy = vec![0u32; words];
            self.download(bytemuck::cast_slice_mut(&mut copy), from).map(|()| copy)
        };
        match *transfer {
            Transfer::AllGather(ref parts) => {
                let copy = |part: &Gathered| {
                    let own = block_of(nccl.rank(), part.block, part.len);
                    let mut all = vec![0u32; part.len];
                    all[own.clone()].copy_from_slice(&download(part.address + 4 * own.start as u64, own.len())?);
                    Ok::<_, DeviceError>(all)
                };
                let mut copies = parts.iter().map(copy).collect::<Result<Vec<_>, _>>()?;
                let of_copy =
                    |(part, all): (&Gathered, &mut Vec<u32>)| Gathered { address: all.as_mut_ptr() as u64, ..*part };
                let of_copies = parts.iter().zip(&mut copies).map(of_copy).collect();
                // SAFETY: the copies have all blocks. They are this rank's only memory that the library knows.
                unsafe { nccl.start(&Transfer::AllGather(of_copies), stream) }?;
                let mut gathered = parts.iter().zip(&copies);
                gathered.try_for_each(|(part, all)| self.upload(part.address, bytemuck::cast_slice(all)))
            }
            Transfer::AllToAll { ref sends, ref receives } => {
                let sent = sends.iter().map(|message| download(message.address, message.words));
                let sent = sent.collect::<Result<Vec<_>, _>>()?;
                let mut received: Vec<Vec<u32>> = receives.iter().map(|message| vec![0; message.words]).collect();
                let of_copies = |message: &Message, address| Message { address, ..*message };
                let copies = Transfer::AllToAll {
                    sends: sends.iter().zip(&sent).map(|(to, words)| of_copies(to, words.as_ptr() as u64)).collect(),
                    receives: receives
                        .iter()
                        .zip(&mut received)
                        .map(|(from, words)| of_copies(from, words.as_mut_ptr() as u64))
                        .collect(),
                };
                // SAFETY: as above.
                unsafe { nccl.start(&copies, stream) }?;
                let mut arrived = receives.iter().zip(&received);
                arrived.try_for_each(|(message, words)| self.upload(message.address, bytemuck::cast_slice(words)))
            }
        }
    }

    fn launch(&self, call: &Launch) -> Result<(), DeviceError> {
        let wrong = |problem: String| DeviceError::Kernel { kernel: call.kernel.to_owned(), problem };
        let module = self.module(call.module).map_err(wrong)?;
        let kernel = module.kernel(call.kernel).ok_or_else(|| wrong(format!("not in kernels/{}.cu", call.module)))?;
        let args: Vec<&[u8]> = call.args.iter().map(Arg::bytes).collect();
        let params = kernel.pack(&args).map_err(wrong)?;
        let grid = ptx_emulator::LaunchConfig {
            blocks: call.config.blocks,
            threads: call.config.threads,
            dynamic_shared: call.config.shared,
        };
        let (shared, max_shared) =
            (kernel.static_shared() + call.config.shared, self.options.shared.unwrap_or(HOPPER_SHARED));
        if shared > max_shared {
            return Err(wrong(format!("{shared} bytes of shared memory for a block; this GPU has {max_shared}")));
        }
        let clock = (self.done.lock().unwrap_or_else(PoisonError::into_inner).seconds * 1e9) as u64;
        let options = Options { count: self.options.count, order: self.options.order, clock, ..Options::default() };
        let counts = launch(&self.memory, &module, kernel, grid, &params, &options)
            .map_err(|fault| wrong(format!("{fault}; {:?}", call.config)))?;
        if self.options.count {
            let seconds = estimate::launch(&counts);
            self.pass(seconds, counts.moved_bytes() as usize);
            let mut all = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
            let launches = all.entry(call.kernel.to_owned()).or_default();
            launches.counts.add(&counts);
            launches.number += 1;
            launches.seconds += seconds;
            launches.threads = launches.threads.max(call.config.threads.iter().product());
            launches.shared_bytes = launches.shared_bytes.max(shared);
        }
        Ok(())
    }

    fn gemm(&self, call: &Gemm) -> Result<(), DeviceError> {
        let Gemm { m, n, k, a, b, operands, d, result, accumulate, epilogue } = *call;
        let (left, right) = (self.read(a.address, m * k, operands)?, self.read(b.address, k * n, operands)?);
        let mut sums = match accumulate {
            true => self.read(d, m * n, result)?,
            false => vec![0.0; m * n],
        };
        // Values that are bf16 already keep their bits, and the order of sums is the same on every processor.
        let multiplied = if operands == DType::Bf16 { Operands::Bf16 } else { Operands::F32 };
        let options = GemmOptions { operands: multiplied, scale: 1.0, accumulate, parallel: true };
        let (left, right) = ((&left[..], strides(a, m, k)), (&right[..], strides(b, k, n)));
        gemm((m, n, k), (&mut sums, Strides::row_major(n)), left, right, options);
        match epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) | Epilogue::GeluBias { bias, .. } => {
                let bias = self.read(bias, n, operands)?;
                sums.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias));
                if let Epilogue::GeluBias { pre, .. } = epilogue {
                    self.write(pre, &sums, operands)?;
                    sums.iter_mut().for_each(|sum| *sum = gelu(*sum).0);
                }
            }
            Epilogue::GeluSlope { pre } => {
                let pre = self.read(pre, m * n, operands)?;
                sums.iter_mut().zip(pre).for_each(|(sum, pre)| *sum *= gelu(pre).1);
            }
        }
        self.pass(estimate::gemm(call), call.moved_bytes());
        self.write(d, &sums, result)
    }
}

fn failed(what: &str, error: &MemoryError) -> DeviceError {
    DeviceError::Driver { call: what.to_owned(), problem: error.to_string() }
}

/// tanh-GELU and its derivative, as in cuBLASLt's epilogues.
fn gelu(x: f32) -> (f32, f32) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let t = (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh();
    let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

fn strides(operand: Operand, rows: usize, columns: usize) -> Strides {
    match operand.transposed {
        false => Strides::row_major(columns),
        true => Strides::row_major(rows).transposed(),
    }
}
