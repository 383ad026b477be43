//! Resolves operands to registers; immediates and special registers become preset registers.

use super::{Binding, Class, Decoded, Decoder};
use crate::isa::{File, LaneMask, Op, Preset, Reg, Space, Ty};
use crate::parser::ast::{Operand, Variable};

/// An address operand: base register, offset, and the state space if it is a variable.
pub(super) struct Address {
    pub space: Option<Space>,
    pub base: Reg,
    pub offset: i64,
}

impl<'a> Decoder<'a> {
    /// A new register, for sinks and intermediate values.
    pub(super) fn temporary(&mut self, file: File) -> Reg {
        let reg = Reg::new(file, self.counts[file as usize]);
        self.counts[file as usize] += 1;
        reg
    }

    pub(super) fn preset(&mut self, file: File, preset: Preset) -> Reg {
        if let Some(reg) = self.presets.get(&(file, preset)) {
            return *reg;
        }
        let reg = self.temporary(file);
        self.presets.insert((file, preset), reg);
        reg
    }

    pub(super) fn constant(&mut self, file: File, bits: u64) -> Reg {
        self.preset(file, Preset::Bits(bits))
    }

    /// A declared register of any file.
    fn declared(&mut self, name: &str) -> Decoded<Option<Reg>> {
        if let Some(Binding::Register(reg)) = self.lookup(name) {
            self.names.entry(reg).or_insert_with(|| name.into());
            return Ok(Some(reg));
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(Binding::Family { file, family, count }) = self.lookup(prefix) else { return Ok(None) };
        match name[prefix.len()..].parse::<u32>() {
            Ok(number) if number < count => {
                let reg = match self.numbered.get(&(family, number)) {
                    Some(reg) => *reg,
                    None => self.temporary(file),
                };
                self.numbered.insert((family, number), reg);
                self.names.entry(reg).or_insert_with(|| name.into());
                Ok(Some(reg))
            }
            Ok(_) => Err(format!("`{name}` is beyond the declaration `{prefix}<{count}>`")),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn register(&mut self, name: &str, file: File) -> Decoded<Reg> {
        let reg = self.declared(name)?.ok_or_else(|| format!("the register `{name}` is not declared"))?;
        if reg.file() != file {
            return Err(format!("the register `{name}` is {}, {} is needed", width(reg.file()), width(file)));
        }
        Ok(reg)
    }

    /// A destination of type `ty`.
    pub(super) fn destination(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<Reg> {
        match operand {
            Operand::Name(name) => self.register(name, ty.file()),
            Operand::Sink => Ok(self.temporary(ty.file())),
            _ => Err("a register is needed as destination".into()),
        }
    }

    /// A destination of a load, which may be wider than the loaded type.
    pub(super) fn wide_destination(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<Reg> {
        match operand {
            Operand::Name(name) if ty.file() == File::B32 => match self.declared(name)? {
                Some(reg) if reg.file() == File::B64 => Ok(reg),
                _ => self.register(name, File::B32),
            },
            _ => self.destination(operand, ty),
        }
    }

    /// A source of a store or conversion, which may be wider than its type.
    pub(super) fn wide_source(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<Reg> {
        if let Operand::Name(name) = operand
            && let Some(reg) = self.declared(name)?
            && (reg.file() == File::B64 || reg.file() == ty.file())
        {
            return Ok(reg);
        }
        self.source(operand, ty)
    }

    /// A source of type `ty`: register, special register, address of a variable, or immediate.
    pub(super) fn source(&mut self, operand: &Operand<'a>, ty: Ty) -> Decoded<Reg> {
        let file = ty.file();
        match operand {
            Operand::Name(name) => match self.lookup(name) {
                Some(Binding::Variable(..) | Binding::Symbol(_)) => Ok(self.address_of(name, 0, file)?.base),
                None if self.module_shared(name)?.is_some() => Ok(self.address_of(name, 0, file)?.base),
                _ => match special(name) {
                    Some(preset) => Ok(self.preset(file, preset)),
                    None => self.register(name, file),
                },
            },
            Operand::Not(inner) if file == File::Pred => {
                let source = self.source(inner, Ty::Pred)?;
                let negated = self.temporary(File::Pred);
                self.emit(Op::PredNot, Class::Compare, &[negated], &[source]);
                Ok(negated)
            }
            Operand::Int(value) => {
                let bits = match ty {
                    Ty::Pred => (*value != 0) as u64 * u64::MAX,
                    Ty::F32 => (*value as f32).to_bits() as u64,
                    Ty::F64 => (*value as f64).to_bits(),
                    _ if file == File::B32 => *value as u32 as u64,
                    _ => *value as u64,
                };
                Ok(self.constant(file, bits))
            }
            Operand::F32(bits) if ty == Ty::F64 => Ok(self.constant(file, (f32::from_bits(*bits) as f64).to_bits())),
            Operand::F32(bits) => Ok(self.constant(file, *bits as u64)),
            Operand::F64(bits) if file == File::B64 => Ok(self.constant(file, *bits)),
            Operand::F64(bits) => Ok(self.constant(file, (f64::from_bits(*bits) as f32).to_bits() as u64)),
            _ => Err("this kind of operand is not allowed here".into()),
        }
    }

    /// The elements of `{a, b}`, or the operand itself.
    pub(super) fn elements<'o>(&self, operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
        match operand {
            Operand::Vector(elements) => elements,
            single => std::slice::from_ref(single),
        }
    }

    pub(super) fn sources(&mut self, operand: &Operand<'a>, ty: Ty, count: usize) -> Decoded<Vec<Reg>> {
        let elements = self.elements(operand);
        if elements.len() != count {
            return Err(format!("{count} registers are needed, {} given", elements.len()));
        }
        elements.iter().map(|e| self.source(e, ty)).collect()
    }

    pub(super) fn destinations(&mut self, operand: &Operand<'a>, ty: Ty, count: usize) -> Decoded<Vec<Reg>> {
        let elements = self.elements(operand);
        if elements.len() != count {
            return Err(format!("{count} registers are needed, {} given", elements.len()));
        }
        elements.iter().map(|e| self.destination(e, ty)).collect()
    }

    /// `d|p`, or `d` alone: then the second result is dropped.
    pub(super) fn pair(&mut self, operand: &Operand<'a>, first: Ty, second: Ty) -> Decoded<[Reg; 2]> {
        match operand {
            Operand::Pair(a, b) => Ok([self.destination(a, first)?, self.destination(b, second)?]),
            single => Ok([self.destination(single, first)?, self.temporary(second.file())]),
        }
    }

    pub(super) fn address(&mut self, operand: &Operand<'a>) -> Decoded<Address> {
        match operand {
            Operand::Address { base: None, offset } => {
                Ok(Address { space: None, base: self.constant(File::B64, *offset as u64), offset: 0 })
            }
            Operand::Address { base: Some(name), offset } => match self.declared(name)? {
                Some(base) if base.file() == File::Pred => Err(format!("the predicate `{name}` is no address")),
                Some(base) => Ok(Address { space: None, base, offset: *offset }),
                None => self.address_of(name, *offset, File::B64),
            },
            _ => Err("an address in brackets is needed".into()),
        }
    }

    /// A `.shared` variable of the module; placed when the kernel first uses it, unless it is dynamic.
    fn module_shared(&mut self, name: &str) -> Decoded<Option<&'a Variable<'a>>> {
        let unit = self.unit;
        let found = unit.variables.iter().find(|v| v.name == name && v.space == Space::Shared);
        if let Some(variable) = found.filter(|variable| variable.bytes > 0 && self.lookup(name).is_none()) {
            let binding = self.place(variable)?;
            self.scopes[0].insert(variable.name, binding);
        }
        Ok(found)
    }

    /// The address of a variable, as a preset register.
    fn address_of(&mut self, name: &str, offset: i64, file: File) -> Decoded<Address> {
        let shared = self.module_shared(name)?;
        let (space, base) = match self.lookup(name) {
            Some(Binding::Variable(space, at)) => (space, self.constant(file, (at as u64).wrapping_add_signed(offset))),
            Some(Binding::Symbol(index)) => (Space::Global, self.preset(file, Preset::Symbol(index, offset))),
            _ => {
                let align = shared.ok_or_else(|| format!("`{name}` is not declared"))?.align;
                self.dynamic_align = self.dynamic_align.max(Some(align));
                (Space::Shared, self.preset(file, Preset::DynamicBase(offset)))
            }
        };
        Ok(Address { space: Some(space), base, offset: 0 })
    }
}

fn width(file: File) -> &'static str {
    match file {
        File::B32 => "of at most 32 bits",
        File::B64 => "of 64 bits",
        File::Pred => "a predicate",
    }
}

/// Special registers that do not change during a block.
fn special(name: &str) -> Option<Preset> {
    let axis = |suffix: &str| match suffix {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((register, suffix)) = name.split_once('.') {
        let axis = axis(suffix)?;
        return match register {
            "%tid" => Some(Preset::Tid(axis)),
            "%ntid" => Some(Preset::Ntid(axis)),
            "%ctaid" => Some(Preset::Ctaid(axis)),
            "%nctaid" => Some(Preset::Nctaid(axis)),
            _ => None,
        };
    }
    Some(match name {
        "%laneid" => Preset::LaneId,
        "%warpid" => Preset::WarpId,
        "%nwarpid" => Preset::NWarpId,
        "%lanemask_eq" => Preset::LaneMask(LaneMask::Eq),
        "%lanemask_le" => Preset::LaneMask(LaneMask::Le),
        "%lanemask_lt" => Preset::LaneMask(LaneMask::Lt),
        "%lanemask_ge" => Preset::LaneMask(LaneMask::Ge),
        "%lanemask_gt" => Preset::LaneMask(LaneMask::Gt),
        "%dynamic_smem_size" => Preset::DynamicShared,
        "%total_smem_size" => Preset::TotalShared,
        "WARP_SZ" => Preset::Bits(32),
        "%smid" | "%gridid" => Preset::Bits(0),
        "%nsmid" => Preset::Bits(1),
        _ => return None,
    })
}
