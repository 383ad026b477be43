//! Loads, stores, atomics, asynchronous copies and address conversions (PTX ISA, 9.7.9).

use super::form::Form;
use super::operands::Address;
use super::{Class, Decoded, Decoder};
use crate::isa::{Access, AtomOp, File, Op, Reg, Space, Ty};
use crate::parser::ast::Operand;

fn is_space(modifier: &str) -> Option<Space> {
    match modifier {
        "global" => Some(Space::Global),
        "const" => Some(Space::Const),
        "shared" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "param" => Some(Space::Param),
        _ => None,
    }
}

fn vector(modifier: &str) -> Option<u8> {
    match modifier {
        "v2" => Some(2),
        "v4" => Some(4),
        "v8" => Some(8),
        _ => None,
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn memory(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<bool> {
        let name = form.name;
        match name {
            "ld" | "ldu" => self.load(form, o)?,
            "st" => self.store(form, o)?,
            "atom" | "red" => self.atomic(form, o)?,
            "cp" if form.take("async") => self.copy(form, o)?,
            "ldmatrix" | "stmatrix" => self.matrix(form, o)?,
            "cvta" => {
                form.ty()?;
                self.count(o, 2)?;
                let to_space = form.take("to");
                let space = form.pick(is_space).ok_or("cvta without a space")?;
                let (d, a) = (self.destination(&o[0], Ty::U64)?, self.source(&o[1], Ty::U64)?);
                self.emit(Op::Cvta { space, to_space }, Class::Int, &[d], &[a]);
            }
            "isspacep" => {
                self.count(o, 2)?;
                let space = form.pick(is_space).ok_or("isspacep of this space is not supported")?;
                let (d, a) = (self.destination(&o[0], Ty::Pred)?, self.source(&o[1], Ty::U64)?);
                self.emit(Op::IsSpace(space), Class::Compare, &[d], &[a]);
            }
            // Caches are not modelled.
            "prefetch" | "prefetchu" | "discard" | "applypriority" => self.emit(Op::Nop, Class::Other, &[], &[]),
            "createpolicy" => {
                let first = o.first().ok_or("createpolicy without a destination")?;
                let (d, zero) = (self.destination(first, Ty::B64)?, self.constant(File::B64, 0));
                self.emit(Op::Mov, Class::Move, &[d], &[zero]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Drops the last operand of an access with `.L2::cache_hint`: its cache policy.
    fn without_policy<'o>(&self, form: &mut Form<'a>, o: &'o [Operand<'a>]) -> &'o [Operand<'a>] {
        let policy = form.take("L2::cache_hint") as usize;
        &o[..o.len().saturating_sub(policy)]
    }

    /// The access of an instruction; a variable as its address determines the state space.
    fn access(&self, form: &mut Form<'a>, ty: Ty, at: &Address) -> Decoded<Access> {
        let space = match (form.pick(is_space).unwrap_or(Space::Generic), at.space) {
            (Space::Const | Space::Global, None | Some(Space::Global)) => Space::Global,
            // Parameters of calls live in local memory.
            (Space::Param, Some(Space::Local)) => Space::Local,
            (Space::Generic, Some(space)) => space,
            (named, Some(space)) if named != space => {
                return Err(format!("a variable of {space:?} memory is accessed as one of {named:?} memory"));
            }
            (named, _) => named,
        };
        let count = form.pick(vector).unwrap_or(1);
        Ok(Access { space, ty, count, offset: at.offset })
    }

    fn load(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        let o = self.without_policy(form, o);
        self.count(o, 2)?;
        let at = self.address(&o[1])?;
        let constant = form.take("const");
        let access = self.access(form, ty, &at)?;
        let elements = self.elements(&o[0]);
        if elements.len() != access.count as usize {
            return Err(format!("{} registers for a load of {}", elements.len(), access.count));
        }
        let d = elements.iter().map(|e| self.wide_destination(e, ty)).collect::<Decoded<Vec<_>>>()?;
        let class = match access.space {
            _ if constant => Class::LoadConst,
            Space::Shared => Class::LoadShared,
            Space::Local => Class::LoadLocal,
            Space::Param => Class::LoadConst,
            _ => Class::LoadGlobal,
        };
        self.emit(Op::Ld(access), class, &d, &[at.base]);
        Ok(())
    }

    fn store(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        let o = self.without_policy(form, o);
        self.count(o, 2)?;
        let at = self.address(&o[0])?;
        let access = self.access(form, ty, &at)?;
        if access.space == Space::Param {
            return Err("a kernel's parameters cannot be stored to".into());
        }
        let elements = self.elements(&o[1]);
        if elements.len() != access.count as usize {
            return Err(format!("{} registers for a store of {}", elements.len(), access.count));
        }
        let mut s = vec![at.base];
        for element in elements {
            s.push(self.wide_source(element, ty)?);
        }
        let class = match access.space {
            Space::Shared => Class::StoreShared,
            Space::Local => Class::StoreLocal,
            _ => Class::StoreGlobal,
        };
        self.emit(Op::St(access), class, &[], &s);
        Ok(())
    }

    fn atomic(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        let o = self.without_policy(form, o);
        let op = form.pick(|m| {
            Some(match m {
                "add" => AtomOp::Add,
                "min" => AtomOp::Min,
                "max" => AtomOp::Max,
                "and" => AtomOp::And,
                "or" => AtomOp::Or,
                "xor" => AtomOp::Xor,
                "inc" => AtomOp::Inc,
                "dec" => AtomOp::Dec,
                "exch" => AtomOp::Exch,
                "cas" => AtomOp::Cas,
                _ => return None,
            })
        });
        let op = op.ok_or("an atomic without an operation")?;
        let returns = (form.name == "atom") as usize;
        self.count(o, 2 + returns + (op == AtomOp::Cas) as usize)?;
        let at = self.address(&o[returns])?;
        let access = self.access(form, ty, &at)?;
        if !matches!(access.space, Space::Generic | Space::Global | Space::Shared) || access.count != 1 {
            return Err("atomics work on single elements of global and shared memory".into());
        }
        let d: Vec<Reg> = if returns == 1 { vec![self.destination(&o[0], ty)?] } else { Vec::new() };
        let mut s = vec![at.base];
        for operand in &o[returns + 1..] {
            s.push(self.source(operand, ty)?);
        }
        self.emit(Op::Atom { op, access }, Class::Atomic, &d, &s);
        Ok(())
    }

    /// `cp.async`: sources are destination address, source address and the bytes to read.
    fn copy(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        if form.take("commit_group") {
            self.emit(Op::CpCommit, Class::AsyncCopy, &[], &[]);
            return self.count(o, 0);
        }
        if form.take("wait_all") {
            self.emit(Op::CpWait { groups: None }, Class::AsyncCopy, &[], &[]);
            return self.count(o, 0);
        }
        if form.take("wait_group") {
            let [Operand::Int(groups)] = o else { return Err("cp.async.wait_group needs a number".into()) };
            let groups = u32::try_from(*groups).map_err(|_| format!("{groups} is not a number of groups"))?;
            self.emit(Op::CpWait { groups: Some(groups) }, Class::AsyncCopy, &[], &[]);
            return Ok(());
        }
        let o = self.without_policy(form, o);
        let bypass = form.take("cg");
        form.take("ca");
        // From global to shared memory.
        while form.pick(is_space).is_some() {}
        let (to, from, bytes) = match o {
            [to, from, Operand::Int(16), ..] if o.len() <= 4 => (to, from, 16),
            [to, from, Operand::Int(bytes @ (4 | 8)), ..] if o.len() <= 4 && !bypass => (to, from, *bytes as u8),
            _ => return Err("cp.async.ca copies 4, 8 or 16 bytes, cp.async.cg 16".into()),
        };
        let (to, from) = (self.address(to)?, self.address(from)?);
        let size = match o.get(3) {
            Some(size) => self.source(size, Ty::U32)?,
            None => self.constant(File::B32, bytes as u64),
        };
        let op = Op::CpAsync { bytes, to: to.offset, from: from.offset };
        self.emit(op, Class::AsyncCopy, &[], &[to.base, from.base, size]);
        Ok(())
    }

    fn matrix(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let load = form.name == "ldmatrix";
        form.ty()?;
        let count = form.pick(|m| match m {
            "x1" => Some(1u8),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        let count = count.ok_or_else(|| format!("`{}` needs .x1, .x2 or .x4", form.name))?;
        let trans = form.take("trans");
        form.pick(is_space);
        self.count(o, 2)?;
        let at = self.address(&o[load as usize])?;
        let offset = at.offset;
        if load {
            let d = self.destinations(&o[0], Ty::B32, count as usize)?;
            self.emit(Op::LdMatrix { count, trans, offset }, Class::Matrix, &d, &[at.base]);
        } else {
            let mut s = vec![at.base];
            s.extend(self.sources(&o[1], Ty::B32, count as usize)?);
            self.emit(Op::StMatrix { count, trans, offset }, Class::Matrix, &[], &s);
        }
        Ok(())
    }
}
