//! A GPU on the CPU: kernels run in the PTX emulator with every check on; products round operands as a GPU does and sum
//! in f32.

mod capture;
mod machine;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_emulator::{Counts, Memory};

use self::capture::Capture;
use self::machine::{Call, HOPPER_SHARED, Launches, Machine};
use super::driver::{Driver, Event, Gemm, Launch, Limits};
use super::estimate;
use crate::device::{DeviceError, Graph, KernelCounts, Pending};
use crate::group::{Nccl, Transfer};

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
    /// During a capture.
    capture: Mutex<Option<Capture>>,
    /// The number of captures that have begun.
    captures: AtomicUsize,
    /// The communication stream: its calls are made when they are joined, as late as a GPU could make them.
    forked: Mutex<Forked>,
    /// Asynchronous uploads, delayed until they are swapped in: as late as a GPU could make them.
    uploads: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// The streams, as NCCL is given them.
const MAIN_STREAM: u64 = 1;
const FORKED_STREAM: u64 = 2;

/// Calls on the communication stream.
#[derive(Default)]
struct Forked {
    active: bool,
    calls: VecDeque<Call>,
    /// The number of calls that have been made.
    made: usize,
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
            captures: AtomicUsize::new(0),
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

    fn capture(&self) -> MutexGuard<'_, Option<Capture>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes the call, or captures or delays it.
    fn call(&self, call: Call) -> Result<(), DeviceError> {
        let mut forked = self.forked();
        if let Some(capture) = &mut *self.capture() {
            capture.add(call, forked.active);
            return Ok(());
        }
        if forked.active {
            forked.calls.push_back(call);
            return Ok(());
        }
        drop(forked);
        self.machine.make(&call)
    }

    /// An error during a capture, when the host must not wait or allocate.
    fn not_capturing(&self, what: &str) -> Result<(), DeviceError> {
        match *self.capture() {
            Some(_) => Err(DeviceError::Unsupported { what: format!("{what} while a graph is captured") }),
            None => Ok(()),
        }
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
        let stream = if self.forked().active { FORKED_STREAM } else { MAIN_STREAM };
        self.call(Call::Transfer { nccl: nccl.clone(), transfer, stream })
    }

    fn begin_fork(&self) -> Result<(), DeviceError> {
        self.forked().active = true;
        Ok(())
    }

    fn end_fork(&self) {
        self.forked().active = false;
    }

    fn join(&self) -> Result<(), DeviceError> {
        if let Some(capture) = &mut *self.capture() {
            return capture.join();
        }
        self.make_forked(usize::MAX)
    }

    fn wait_event(&self, event: &Event) -> Result<(), DeviceError> {
        let Event::EmulatedFork { calls, capture: of } = event else { return Ok(()) };
        let mut capture = self.capture();
        if capture.as_ref().map(|capture| capture.number) != *of {
            return Err(DeviceError::Unsupported { what: "waiting for an event of another capture".to_owned() });
        }
        if let Some(capture) = &mut *capture {
            capture.wait(*calls);
            return Ok(());
        }
        drop(capture);
        self.make_forked(*calls)
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
        *self.capture() = Some(Capture::new(self.captures.fetch_add(1, Ordering::Relaxed)));
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>, DeviceError> {
        let capture =
            self.capture().take().ok_or_else(|| DeviceError::Unsupported { what: "ending no capture".to_owned() })?;
        Ok(Box::new(capture.end(self.machine.clone())?))
    }

    fn record_event(&self) -> Result<Event, DeviceError> {
        let forked = self.forked();
        if forked.active {
            return Ok(match &*self.capture() {
                Some(capture) => Event::EmulatedFork { calls: capture.forked(), capture: Some(capture.number) },
                None => Event::EmulatedFork { calls: forked.made + forked.calls.len(), capture: None },
            });
        }
        drop(forked);
        self.not_capturing("recording an event")?;
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
}
