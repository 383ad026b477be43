//! A GPU on the CPU: kernels run in the PTX emulator with every check on; products round operands as a GPU does and sum
//! in f32.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::bf16;
use ptx_emulator::{Counts, Memory, MemoryError, Module, Options, launch};

use super::driver::{Arg, DType, Done, Driver, Epilogue, Event, Gemm, Launch, LaunchConfig, Limits, Operand};
use super::{estimate, kernels};
use crate::device::gemm::{GemmOptions, Operands, Strides, gemm};
use crate::device::{DeviceError, Graph, KernelCounts, Pending};
use crate::group::{Message, Nccl, Transfer, block_of};

/// Bytes of shared memory that a block may use on a GPU of compute capability 9.0.
const HOPPER_SHARED: usize = 227 * 1024;

/// What the emulator does apart from computing, and which GPU it imitates.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmulatorOptions {
    /// Count instructions, traffic and conflicts (see [`Emulated::take_counts`]), and estimate times.
    pub count: bool,
    /// A seed that shuffles blocks and warps.
    pub order: Option<u64>,
    /// Bytes of shared memory that a block may use; `None` is Hopper's 227 KiB. Other cards have less: an A100 163 KiB,
    /// an RTX 4090, A10 or L40S 99 KiB.
    pub shared: Option<usize>,
}

/// An emulated GPU.
pub struct Emulated {
    machine: Arc<Machine>,
    /// The calls captured so far, during a capture.
    capture: Mutex<Option<Vec<Call>>>,
    /// The communication stream: its calls are made when they are joined, as late as a GPU could make them.
    forked: Mutex<Forked>,
    /// Asynchronous uploads, delayed until they are swapped in: as late as a GPU could make them.
    uploads: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// Calls on the communication stream.
#[derive(Default)]
struct Forked {
    active: bool,
    calls: VecDeque<Call>,
    /// The number of calls that have been made.
    made: usize,
}

/// A call that can be captured and replayed, or delayed.
enum Call {
    Launch { module: &'static str, kernel: String, config: LaunchConfig, args: Vec<Arg> },
    Gemm(Gemm),
    Copy { to: u64, from: u64, bytes: usize },
    Zero { to: u64, bytes: usize },
    MarkUninit { address: u64, bytes: usize },
    Transfer { nccl: Arc<Nccl>, transfer: Transfer },
}

struct Captured {
    machine: Arc<Machine>,
    calls: Vec<Call>,
}

impl Graph for Captured {
    fn replay(&self) -> Result<(), DeviceError> {
        self.calls.iter().try_for_each(|call| self.machine.make(call))
    }
}

/// Memory, modules and counts; shared with captured graphs.
struct Machine {
    memory: Memory,
    modules: Mutex<HashMap<&'static str, Arc<Module>>>,
    options: EmulatorOptions,
    launches: Mutex<BTreeMap<String, Launches>>,
    done: Mutex<Done>,
}

/// The launches of one kernel.
#[derive(Default)]
struct Launches {
    counts: Counts,
    number: u64,
    seconds: f64,
    /// The largest block's.
    threads: u32,
    shared_bytes: usize,
}

impl Emulated {
    /// A GPU with empty memory.
    pub fn new(options: EmulatorOptions) -> Self {
        let machine = Machine {
            memory: Memory::new(),
            modules: Mutex::default(),
            options,
            launches: Mutex::default(),
            done: Mutex::default(),
        };
        Self {
            machine: Arc::new(machine),
            capture: Mutex::default(),
            forked: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    fn take_launches(&self) -> BTreeMap<String, Launches> {
        std::mem::take(&mut self.machine.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The counts of each kernel since the last call.
    pub fn take_counts(&self) -> BTreeMap<String, Counts> {
        self.take_launches().into_iter().map(|(kernel, launches)| (kernel, launches.counts)).collect()
    }

    /// Bytes that are allocated now.
    pub fn allocated(&self) -> usize {
        self.machine.memory.allocated()
    }

    /// Makes the calls on the communication stream up to this number of them.
    fn make_forked(&self, until: usize) -> Result<(), DeviceError> {
        loop {
            let mut forked = self.forked();
            let Some(call) = (forked.made < until).then(|| forked.calls.pop_front()).flatten() else { return Ok(()) };
            forked.made += 1;
            drop(forked);
            self.machine.make(&call)?;
        }
    }

    fn forked(&self) -> MutexGuard<'_, Forked> {
        self.forked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes the call, or captures or delays it.
    fn call(&self, call: Call) -> Result<(), DeviceError> {
        let mut forked = self.forked();
        if forked.active {
            forked.calls.push_back(call);
            return Ok(());
        }
        drop(forked);
        match &mut *self.capture.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(calls) => {
                calls.push(call);
                Ok(())
            }
            None => self.machine.make(&call),
        }
    }

    /// An error during a capture, when the host must not wait or allocate.
    fn not_capturing(&self, what: &str) -> Result<(), DeviceError> {
        match *self.capture.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Err(DeviceError::Unsupported { what: format!("{what} while a graph is captured") }),
            None => Ok(()),
        }
    }
}

impl Machine {
    fn make(&self, call: &Call) -> Result<(), DeviceError> {
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
            Call::Transfer { nccl, transfer } => self.transfer(nccl, transfer),
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

    fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(to, from).map_err(|error| failed("upload", &error))
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.memory.read_written(from, to).map_err(|error| failed("download", &error))
    }

    /// The library gets copies in the host's memory.
    fn transfer(&self, nccl: &Nccl, transfer: &Transfer) -> Result<(), DeviceError> {
        let download = |from: u64, words: usize| {
            let mut copy = vec![0u32; words];
            self.download(bytemuck::cast_slice_mut(&mut copy), from).map(|()| copy)
        };
        match *transfer {
            Transfer::AllGather { address, block, len } => {
                let mut all = vec![0u32; len];
                let own = block_of(nccl.rank(), block, len);
                all[own.clone()].copy_from_slice(&download(address + 4 * own.start as u64, own.len())?);
                let address_of_copy = all.as_mut_ptr() as u64;
                // SAFETY: the copy has all blocks. It is this rank's only memory that the library knows.
                unsafe { nccl.start(&Transfer::AllGather { address: address_of_copy, block, len }, 0) }?;
                self.upload(address, bytemuck::cast_slice(&all))
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
                unsafe { nccl.start(&copies, 0) }?;
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
        let options = Options { count: self.options.count, order: self.options.order, ..Options::default() };
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

impl Driver for Emulated {
    fn describe(&self) -> String {
        format!("{} ({} threads)", self.name(), rayon::current_num_threads())
    }

    fn name(&self) -> String {
        "emulated GPU".to_owned()
    }

    /// Few SMs, so that each gets several pieces of work in small tests.
    fn limits(&self) -> Limits {
        Limits { sm_count: 2, shared: self.machine.options.shared.unwrap_or(HOPPER_SHARED) }
    }

    fn estimates(&self) -> bool {
        true
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>, DeviceError> {
        self.not_capturing("an allocation")?;
        Ok(Some(self.machine.memory.allocate(bytes)))
    }

    fn free(&self, address: u64) {
        // Only a bug in this program frees an address that `allocate` has not returned.
        self.machine.memory.free(address).unwrap_or_else(|error| unreachable!("{error}"));
    }

    fn free_bytes(&self) -> Option<usize> {
        None
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.not_capturing("an upload")?;
        self.machine.upload(to, from)
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.not_capturing("a download")?;
        self.machine.download(to, from)
    }

    fn upload_async(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.not_capturing("an upload")?;
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).push((to, from.to_vec()));
        Ok(())
    }

    fn swap_in(&self, copies: &[(u64, u64, usize)]) -> Result<(), DeviceError> {
        self.not_capturing("swapping in uploads")?;
        let uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        uploads.iter().try_for_each(|(to, from)| self.machine.upload(*to, from))?;
        copies.iter().try_for_each(|&(to, from, bytes)| self.copy(to, from, bytes))
    }

    fn transfer(&self, nccl: &Arc<Nccl>, transfer: Transfer) -> Result<(), DeviceError> {
        self.not_capturing("a transfer between ranks")?;
        self.call(Call::Transfer { nccl: nccl.clone(), transfer })
    }

    fn begin_fork(&self) -> Result<(), DeviceError> {
        self.not_capturing("forking a stream")?;
        self.forked().active = true;
        Ok(())
    }

    fn end_fork(&self) {
        self.forked().active = false;
    }

    fn join(&self) -> Result<(), DeviceError> {
        self.make_forked(usize::MAX)
    }

    fn wait_event(&self, event: &Event) -> Result<(), DeviceError> {
        match event {
            Event::EmulatedFork(calls) => self.make_forked(*calls),
            _ => Ok(()),
        }
    }

    fn download_async(&self, from: u64, len: usize) -> Result<Pending, DeviceError> {
        let mut values = vec![0.0f32; len];
        self.download(bytemuck::cast_slice_mut(&mut values), from)?;
        Ok(Box::new(|| Ok(values)))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        self.call(Call::Copy { to, from, bytes })
    }

    fn zero(&self, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.call(Call::Zero { to, bytes })
    }

    fn mark_uninit(&self, address: u64, bytes: usize) -> Result<(), DeviceError> {
        self.call(Call::MarkUninit { address, bytes })
    }

    fn launch(&self, call: &Launch) -> Result<(), DeviceError> {
        let &Launch { module, kernel, config, args } = call;
        self.call(Call::Launch { module, kernel: kernel.to_owned(), config, args: args.to_vec() })
    }

    fn gemm(&self, product: &Gemm) -> Result<(), DeviceError> {
        self.call(Call::Gemm(*product))
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.not_capturing("another capture")?;
        *self.capture.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>, DeviceError> {
        let calls = self.capture.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        Ok(Box::new(Captured { machine: self.machine.clone(), calls }))
    }

    fn record_event(&self) -> Result<Event, DeviceError> {
        let forked = self.forked();
        if forked.active {
            return Ok(Event::EmulatedFork(forked.made + forked.calls.len()));
        }
        drop(forked);
        Ok(Event::Emulated(*self.machine.done.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn seconds(&self, from: &Event, to: &Event) -> Result<f64, DeviceError> {
        match (from, to) {
            (Event::Emulated(from), Event::Emulated(to)) => Ok(to.seconds - from.seconds),
            _ => Err(DeviceError::Unsupported { what: "events of another device".to_owned() }),
        }
    }

    fn moved_bytes(&self, from: &Event, to: &Event) -> Option<u64> {
        match (from, to) {
            (Event::Emulated(from), Event::Emulated(to)) if self.machine.options.count => {
                Some(to.moved_bytes - from.moved_bytes)
            }
            _ => None,
        }
    }

    fn take_kernels(&self) -> Vec<KernelCounts> {
        let counts = |(kernel, launches): (String, Launches)| {
            let Launches { counts, number, seconds, threads, shared_bytes } = launches;
            KernelCounts {
                kernel,
                launches: number,
                blocks: counts.blocks,
                threads,
                shared_bytes,
                warp_instructions: counts.warp_instructions(),
                mma_flops: counts.mma_flops,
                moved_bytes: counts.moved_bytes(),
                shared_passes: counts.shared.passes,
                min_shared_passes: counts.shared.least,
                seconds,
                slowest: estimate::slowest(&counts).1.to_owned(),
            }
        };
        self.take_launches().into_iter().map(counts).collect()
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.not_capturing("waiting")
    }
}
