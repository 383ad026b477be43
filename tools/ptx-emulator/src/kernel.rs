//! A decoded kernel.

use crate::isa::{Inst, Preset, Reg};
use crate::location::Location;
use std::sync::Arc;

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the PTX text.
    pub name: String,
    /// Offset in the parameter buffer in bytes.
    pub offset: usize,
    /// Size in bytes.
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
    /// Size of the narrowest access to shared memory, which is checked in units of this size.
    pub(crate) shared_granule: usize,
    /// Whether some barriers are not of the whole block.
    pub(crate) partial_barriers: bool,
    pub(crate) code: Vec<Inst>,
    pub(crate) operands: Vec<Reg>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) presets: Vec<(Reg, Preset)>,
    /// Registers per file: 32-bit, 64-bit, predicates.
    pub(crate) registers: [usize; 3],
    /// Registers that are tracked for uninitialised reads, with their names.
    pub(crate) tracked: Vec<(Reg, String)>,
}

impl Kernel {
    /// Name in the PTX text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter buffer in bytes.
    pub fn param_bytes(&self) -> usize {
        self.params.last().map_or(0, |p| p.offset + p.bytes)
    }

    /// Static shared memory per block in bytes.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// Packs arguments into a parameter buffer; one slice of bytes per parameter, as `cuLaunchKernel` takes them.
    ///
    /// # Errors
    /// If the number of arguments, or the size of one, differs from what the kernel declares.
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
