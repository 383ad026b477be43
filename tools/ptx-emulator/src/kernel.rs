//! A decoded kernel.

use crate::isa::{Inst, Preset, Reg};
use crate::location::Location;
use std::sync::Arc;

/// A kernel's parameter within the parameter buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
}

/// A decoded `.entry`.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    pub(crate) static_shared: usize,
    pub(crate) local_bytes: usize,
    pub(crate) max_threads: Option<u32>,
    /// The narrowest shared access: shared memory is watched in units of so many bytes.
    pub(crate) shared_granule: usize,
    /// Some barriers are not of the whole block.
    pub(crate) partial_barriers: bool,
    pub(crate) code: Vec<Inst>,
    pub(crate) operands: Vec<Reg>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) presets: Vec<(Reg, Preset)>,
    /// Registers per file: 32-bit, 64-bit, predicates.
    pub(crate) registers: [usize; 3],
    /// For messages: names of the registers that are watched for reads before writes.
    pub(crate) tracked: Vec<(Reg, String)>,
}

impl Kernel {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where each parameter lies in the parameter buffer.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Length of the parameter buffer in bytes.
    pub fn param_bytes(&self) -> usize {
        self.params.last().map_or(0, |p| p.offset + p.bytes)
    }

    /// Statically declared shared memory per block in bytes.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// The parameter buffer for arguments given one by one, as the driver's `cuLaunchKernel` takes them.
    ///
    /// # Errors
    /// Says which argument is missing, too many, or of another size than the kernel declares.
    pub fn pack(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, String> {
        if arguments.len() != self.params.len() {
            return Err(format!("{} takes {} parameters, {} given", self.name, self.params.len(), arguments.len()));
        }
        let mut buffer = vec![0; self.param_bytes()];
        for (i, (param, bytes)) in self.params.iter().zip(arguments).enumerate() {
            if bytes.len() != param.bytes {
                let (want, got) = (param.bytes, bytes.len());
                return Err(format!("{}: parameter {i} ({}) has {want} bytes, {got} given", self.name, param.name));
            }
            buffer[param.offset..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(buffer)
    }

    pub(crate) fn destinations(&self, inst: &Inst) -> &[Reg] {
        &self.operands[inst.first as usize..][..inst.destinations as usize]
    }

    pub(crate) fn sources(&self, inst: &Inst) -> &[Reg] {
        &self.operands[inst.first as usize + inst.destinations as usize..][..inst.sources as usize]
    }

    pub(crate) fn location(&self, pc: usize) -> Option<&Arc<Location>> {
        self.code[pc].location.as_ref()
    }
}
