//! A parsed and decoded PTX file.

use crate::decode;
use crate::isa::Space;
use crate::kernel::Kernel;
use crate::parser::{self, ParseError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A PTX file, decoded and ready to launch.
///
/// ```
/// let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }";
/// let module = ptx_emulator::Module::parse(ptx)?;
/// assert_eq!(module.kernels().map(|k| k.name()).collect::<Vec<_>>(), ["k"]);
/// # Ok::<(), ptx_emulator::ParseError>(())
/// ```
#[derive(Debug)]
pub struct Module {
    /// Distinguishes the variables of different modules in a [`crate::Memory`].
    pub(crate) id: u64,
    pub(crate) variables: Vec<ModuleVariable>,
    kernels: BTreeMap<String, Kernel>,
}

/// A `.global` or `.const` variable.
#[derive(Debug)]
pub(crate) struct ModuleVariable {
    pub bytes: usize,
    pub init: Vec<u8>,
}

impl Module {
    /// Parses and decodes a PTX file.
    ///
    /// # Errors
    /// The first line that is not valid PTX, or has an instruction form that is not supported ([`crate::forms`]).
    pub fn parse(ptx: &str) -> Result<Module, ParseError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unit = parser::parse(ptx)?;
        let module_space = |v: &&parser::ast::Variable| matches!(v.space, Space::Global | Space::Const);
        let variables = unit.variables.iter().filter(module_space);
        let variables = variables.map(|v| ModuleVariable { bytes: v.bytes, init: v.init.clone() });
        let kernels =
            unit.functions.iter().filter(|f| f.kernel).map(|f| Ok((f.name.into(), decode::kernel(&unit, f)?)));
        Ok(Module {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            variables: variables.collect(),
            kernels: kernels.collect::<Result<_, ParseError>>()?,
        })
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }

    /// All kernels, in the order of their names.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.kernels.values()
    }
}
