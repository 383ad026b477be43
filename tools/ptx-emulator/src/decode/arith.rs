//! Moves, integer, floating-point, comparison and conversion instructions (PTX ISA, 9.7.1 to 9.7.8).

use super::form::Form;
use super::{Class, Decoded, Decoder};
use crate::isa::{Cmp, Cvt, Float, FloatOp, IntOp, Logic, Op, Prmt, Reg, Round, TestKind, Ty};
use crate::parser::ast::Operand;

impl<'a> Decoder<'a> {
    /// Decodes an instruction of these groups; `false` if it belongs to another.
    pub(super) fn arith(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<bool> {
        match form.name {
            "mov" => self.mov(form, o)?,
            "add" | "sub" | "mul" | "mad" | "fma" | "min" | "max" | "abs" | "neg" | "div" => {
                let ty = form.ty()?;
                if ty.float() { self.float(form, ty, o)? } else { self.int(form, ty, o)? }
            }
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" => {
                let ty = form.ty()?;
                self.float(form, ty, o)?
            }
            "prmt" => {
                // The mode follows the type.
                form.take("b32");
                self.int(form, Ty::B32, o)?;
            }
            "addc" | "subc" | "mul24" | "mad24" | "rem" | "sad" | "cnot" | "brev" | "popc" | "clz" | "bfind"
            | "bfe" | "bfi" | "shl" | "shr" | "shf" | "lop3" => {
                let ty = form.ty()?;
                self.int(form, ty, o)?
            }
            "and" | "or" | "xor" | "not" => self.logic(form, o)?,
            "dp4a" | "dp2a" => self.dot(form, o)?,
            "setp" => self.setp(form, o)?,
            "set" => self.set(form, o)?,
            "selp" => {
                let ty = form.ty()?;
                self.count(o, 4)?;
                let (d, a, b) = (self.destination(&o[0], ty)?, self.source(&o[1], ty)?, self.source(&o[2], ty)?);
                let p = self.source(&o[3], Ty::Pred)?;
                self.emit(Op::Selp, Class::Move, &[d], &[a, b, p]);
            }
            "slct" => {
                let (by, ty) = (form.ty()?, form.ty()?);
                self.count(o, 4)?;
                let (d, a, b) = (self.destination(&o[0], ty)?, self.source(&o[1], ty)?, self.source(&o[2], ty)?);
                let c = self.source(&o[3], by)?;
                let op = Op::Slct { float: by == Ty::F32, ftz: form.take("ftz") };
                self.emit(op, Class::Compare, &[d], &[a, b, c]);
            }
            "testp" => {
                let ty = form.ty()?;
                self.count(o, 2)?;
                let kind = form.pick(test_kind).ok_or("testp without a test")?;
                let (d, a) = (self.destination(&o[0], Ty::Pred)?, self.source(&o[1], ty)?);
                self.emit(Op::Testp { kind, ty }, Class::Compare, &[d], &[a]);
            }
            "cvt" => self.cvt(form, o)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn count(&self, operands: &[Operand<'a>], count: usize) -> Decoded<()> {
        if operands.len() == count {
            return Ok(());
        }
        Err(format!("{count} operands are needed, {} given", operands.len()))
    }

    fn mov(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        self.count(o, 2)?;
        let part = |n: usize| match (ty.bytes(), n) {
            (2, 2) | (4, 4) => Ok(Ty::B8),
            (4, 2) | (8, 4) => Ok(Ty::B16),
            (8, 2) => Ok(Ty::B32),
            _ => Err(format!("a {}-bit move of {n} parts is not supported", ty.bytes() * 8)),
        };
        match (&o[0], &o[1]) {
            (Operand::Vector(parts), source) => {
                let part = part(parts.len())?;
                let d = self.destinations(&o[0], part, parts.len())?;
                let a = self.source(source, ty)?;
                self.emit(Op::Unpack { bits: part.bytes() as u8 * 8 }, Class::Move, &d, &[a]);
            }
            (_, Operand::Vector(parts)) => {
                let part = part(parts.len())?;
                let d = self.destination(&o[0], ty)?;
                let a = self.sources(&o[1], part, parts.len())?;
                self.emit(Op::Pack { bits: part.bytes() as u8 * 8 }, Class::Move, &[d], &a);
            }
            (_, Operand::Name("%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo")) => {
                let d = self.destination(&o[0], ty)?;
                self.emit(Op::Clock, Class::Other, &[d], &[]);
            }
            _ => {
                let (d, a) = (self.destination(&o[0], ty)?, self.source(&o[1], ty)?);
                self.emit(Op::Mov, Class::Move, &[d], &[a]);
            }
        }
        Ok(())
    }

    fn logic(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        if ty != Ty::Pred {
            return self.int(form, ty, o);
        }
        let op = match form.name {
            "and" => Op::PredLogic(Logic::And),
            "or" => Op::PredLogic(Logic::Or),
            "xor" => Op::PredLogic(Logic::Xor),
            _ => Op::PredNot,
        };
        self.same_type(op, Class::Compare, ty, o, if op == Op::PredNot { 1 } else { 2 })
    }

    /// A destination and `sources` sources, all of one type.
    fn same_type(&mut self, op: Op, class: Class, ty: Ty, o: &[Operand<'a>], sources: usize) -> Decoded<()> {
        self.count(o, sources + 1)?;
        let d = self.destination(&o[0], ty)?;
        let s = o[1..].iter().map(|s| self.source(s, ty)).collect::<Decoded<Vec<_>>>()?;
        self.emit(op, class, &[d], &s);
        Ok(())
    }

    fn int(&mut self, form: &mut Form<'a>, ty: Ty, o: &[Operand<'a>]) -> Decoded<()> {
        if form.name.starts_with("mul24") || form.name.starts_with("mad24") {
            let (mad, high) = (form.name == "mad24", form.take("hi"));
            form.take("lo");
            let op = [[IntOp::Mul24Lo, IntOp::Mul24Hi], [IntOp::Mad24Lo, IntOp::Mad24Hi]][mad as usize][high as usize];
            return self.same_type(Op::Int(op, ty), Class::Int, ty, o, 2 + mad as usize);
        }
        if matches!(form.name, "mul" | "mad") {
            return self.multiply(form, ty, o);
        }
        let (sat, relu, carry_out) = (form.take("sat"), form.take("relu"), form.take("cc"));
        let (op, sources) = match form.name {
            "add" | "sub" | "addc" | "subc" if carry_out || form.name.ends_with('c') => {
                let (sub, carry_in) = (form.name.starts_with("sub"), form.name.ends_with('c'));
                (IntOp::Carry { sub, carry_in, carry_out }, 2)
            }
            "add" => (if sat { IntOp::AddSat } else { IntOp::Add }, 2),
            "sub" => (if sat { IntOp::SubSat } else { IntOp::Sub }, 2),
            "min" => (if relu { IntOp::MinRelu } else { IntOp::Min }, 2),
            "max" => (if relu { IntOp::MaxRelu } else { IntOp::Max }, 2),
            "div" => (IntOp::Div, 2),
            "rem" => (IntOp::Rem, 2),
            "sad" => (IntOp::Sad, 3),
            "abs" => (IntOp::Abs, 1),
            "neg" => (IntOp::Neg, 1),
            "not" => (IntOp::Not, 1),
            "cnot" => (IntOp::Cnot, 1),
            "brev" => (IntOp::Brev, 1),
            "and" => (IntOp::And, 2),
            "or" => (IntOp::Or, 2),
            "xor" => (IntOp::Xor, 2),
            "popc" | "clz" | "bfind" => return self.bit_count(form, ty, o),
            "bfe" | "bfi" | "shl" | "shr" | "shf" | "prmt" => return self.bits(form, ty, o),
            "lop3" => {
                self.count(o, 5)?;
                let Operand::Int(lut @ 0..=255) = o[4] else { return Err("the table of lop3 is not a byte".into()) };
                return self.same_type(Op::Int(IntOp::Lop3(lut as u8), ty), Class::Int, ty, &o[..4], 3);
            }
            name => return Err(format!("`{name}` is not supported on integers")),
        };
        self.same_type(Op::Int(op, ty), Class::Int, ty, o, sources)
    }

    fn multiply(&mut self, form: &mut Form<'a>, ty: Ty, o: &[Operand<'a>]) -> Decoded<()> {
        let mad = form.name == "mad";
        let (wide, high, sat) = (form.take("wide"), form.take("hi"), form.take("sat"));
        form.take("lo");
        let op = match (mad, wide, high) {
            (false, true, _) => IntOp::MulWide,
            (true, true, _) => IntOp::MadWide,
            (false, _, true) => IntOp::MulHi,
            (true, _, true) if sat => IntOp::MadHiSat,
            (true, _, true) => IntOp::MadHi,
            (false, ..) => IntOp::MulLo,
            (true, ..) => IntOp::MadLo,
        };
        self.count(o, 3 + mad as usize)?;
        let result = if wide { wider(ty)? } else { ty };
        let d = self.destination(&o[0], result)?;
        let mut s = vec![self.source(&o[1], ty)?, self.source(&o[2], ty)?];
        if mad {
            s.push(self.source(&o[3], result)?);
        }
        self.emit(Op::Int(op, ty), Class::Int, &[d], &s);
        Ok(())
    }

    /// Instructions with one source and a 32-bit result.
    fn bit_count(&mut self, form: &mut Form<'a>, ty: Ty, o: &[Operand<'a>]) -> Decoded<()> {
        let op = match form.name {
            "popc" => IntOp::Popc,
            "clz" => IntOp::Clz,
            _ => IntOp::Bfind { shift: form.take("shiftamt") },
        };
        self.count(o, 2)?;
        let (d, a) = (self.destination(&o[0], Ty::U32)?, self.source(&o[1], ty)?);
        self.emit(Op::Int(op, ty), Class::Int, &[d], &[a]);
        Ok(())
    }

    /// Shifts and bit fields, whose positions have 32 bits.
    fn bits(&mut self, form: &mut Form<'a>, ty: Ty, o: &[Operand<'a>]) -> Decoded<()> {
        let (op, wide, narrow) = match form.name {
            "shl" => (IntOp::Shl, 1, 1),
            "shr" => (IntOp::Shr, 1, 1),
            "bfe" => (IntOp::Bfe, 1, 2),
            "bfi" => (IntOp::Bfi, 2, 2),
            "shf" => {
                let left = form.take("l");
                form.take("r");
                let wrap = form.take("wrap");
                form.take("clamp");
                (IntOp::Shf { left, wrap }, 3, 0)
            }
            _ => {
                let mode = form.pick(|m| match m {
                    "f4e" => Some(Prmt::F4e),
                    "b4e" => Some(Prmt::B4e),
                    "rc8" => Some(Prmt::Rc8),
                    "ecl" => Some(Prmt::Ecl),
                    "ecr" => Some(Prmt::Ecr),
                    "rc16" => Some(Prmt::Rc16),
                    _ => None,
                });
                (IntOp::Prmt(mode.unwrap_or(Prmt::Index)), 3, 0)
            }
        };
        self.count(o, 1 + wide + narrow)?;
        let d = self.destination(&o[0], ty)?;
        let types = std::iter::repeat_n(ty, wide).chain(std::iter::repeat_n(Ty::U32, narrow));
        let s = o[1..].iter().zip(types).map(|(s, ty)| self.source(s, ty)).collect::<Decoded<Vec<_>>>()?;
        self.emit(Op::Int(op, ty), Class::Int, &[d], &s);
        Ok(())
    }

    fn dot(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let (b, a) = (form.ty()?, form.ty()?);
        let (a_signed, b_signed) = (a.signed(), b.signed());
        let op = if form.name == "dp4a" {
            IntOp::Dp4a { a_signed, b_signed }
        } else {
            let high = form.take("hi");
            form.take("lo");
            IntOp::Dp2a { a_signed, b_signed, high }
        };
        self.same_type(Op::Int(op, Ty::B32), Class::Int, Ty::B32, o, 3)
    }

    fn float(&mut self, form: &mut Form<'a>, ty: Ty, o: &[Operand<'a>]) -> Decoded<()> {
        use FloatOp::*;
        let (op, sources) = match form.name {
            "add" => (Add, 2),
            "sub" => (Sub, 2),
            "mul" => (Mul, 2),
            "mad" | "fma" => (Fma, 3),
            "div" => (Div, 2),
            "min" => (Min, 2),
            "max" => (Max, 2),
            "copysign" => (Copysign, 2),
            "abs" => (Abs, 1),
            "neg" => (Neg, 1),
            "rcp" => (Rcp, 1),
            "sqrt" => (Sqrt, 1),
            "rsqrt" => (Rsqrt, 1),
            "ex2" => (Ex2, 1),
            "lg2" => (Lg2, 1),
            "sin" => (Sin, 1),
            "cos" => (Cos, 1),
            _ => (Tanh, 1),
        };
        let float = Float {
            op,
            ty,
            round: form.round(),
            ftz: form.take("ftz"),
            sat: form.take("sat"),
            nan: form.take("NaN"),
            relu: form.take("relu"),
        };
        // Approximations are computed with full precision.
        form.pick(|m| matches!(m, "approx" | "full").then_some(()));
        let special = matches!(op, Div | Rcp | Sqrt | Rsqrt | Ex2 | Lg2 | Sin | Cos | Tanh);
        let class = match ty {
            _ if special => Class::Special,
            Ty::F64 => Class::Fp64,
            Ty::F32 => Class::Fp32,
            _ => Class::Half,
        };
        self.same_type(Op::Float(float), class, ty, o, sources)
    }

    fn setp(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        let cmp = self.compare(form, ty)?;
        let (ftz, logic) = (form.take("ftz"), form.pick(logic));
        self.count(o, 3 + logic.is_some() as usize)?;
        let halves = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let (a, b) = (self.source(&o[1], ty)?, self.source(&o[2], ty)?);
        let mut s = vec![a, b];
        if logic.is_some() {
            s.push(self.source(&o[3], Ty::Pred)?);
        }
        let d: Vec<Reg> = match &o[0] {
            Operand::Pair(..) => self.pair(&o[0], Ty::Pred, Ty::Pred)?.into(),
            single => vec![self.destination(single, Ty::Pred)?],
        };
        let op = match (halves, logic) {
            (true, None) if d.len() == 2 => Op::SetpHalves { cmp, ty, ftz },
            (true, _) => return Err("setp on packed halves needs two destination predicates".into()),
            _ => Op::Setp { cmp, ty, ftz, logic },
        };
        self.emit(op, Class::Compare, &d, &s);
        Ok(())
    }

    fn set(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let (ty, to) = (form.ty()?, form.ty()?);
        let cmp = self.compare(form, ty)?;
        self.count(o, 3)?;
        let (d, a, b) = (self.destination(&o[0], to)?, self.source(&o[1], ty)?, self.source(&o[2], ty)?);
        let op = Op::Set { cmp, to, ty, ftz: form.take("ftz") };
        self.emit(op, Class::Compare, &[d], &[a, b]);
        Ok(())
    }

    fn compare(&self, form: &mut Form<'a>, ty: Ty) -> Decoded<Cmp> {
        form.pick(|m| {
            Some(match m {
                "eq" => Cmp::Eq,
                "ne" => Cmp::Ne,
                "lt" | "lo" => Cmp::Lt,
                "le" | "ls" => Cmp::Le,
                "gt" | "hi" => Cmp::Gt,
                "ge" | "hs" => Cmp::Ge,
                "equ" if ty.float() => Cmp::Equ,
                "neu" if ty.float() => Cmp::Neu,
                "ltu" if ty.float() => Cmp::Ltu,
                "leu" if ty.float() => Cmp::Leu,
                "gtu" if ty.float() => Cmp::Gtu,
                "geu" if ty.float() => Cmp::Geu,
                "num" if ty.float() => Cmp::Num,
                "nan" if ty.float() => Cmp::Nan,
                _ => return None,
            })
        })
        .ok_or_else(|| format!("`{}` without a comparison of this type", form.name))
    }

    fn cvt(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let (from, to) = (form.ty()?, form.ty()?);
        let integral = form.pick(|m| match m {
            "rni" => Some(Round::Nearest),
            "rzi" => Some(Round::Zero),
            "rmi" => Some(Round::Down),
            "rpi" => Some(Round::Up),
            _ => None,
        });
        let round = integral.unwrap_or_else(|| if form.take("rna") { Round::NearestAway } else { form.round() });
        let cvt = Cvt {
            to,
            from,
            round,
            integral: integral.is_some(),
            ftz: form.take("ftz"),
            sat: form.take("sat"),
            relu: form.take("relu"),
            satfinite: form.take("satfinite"),
        };
        let two = matches!(to, Ty::F16x2 | Ty::Bf16x2);
        self.count(o, 2 + two as usize)?;
        let d = self.destination(&o[0], to)?;
        let s = o[1..].iter().map(|s| self.wide_source(s, from)).collect::<Decoded<Vec<_>>>()?;
        self.emit(Op::Cvt(cvt), Class::Convert, &[d], &s);
        Ok(())
    }
}

fn wider(ty: Ty) -> Decoded<Ty> {
    match ty {
        Ty::U16 => Ok(Ty::U32),
        Ty::S16 => Ok(Ty::S32),
        Ty::U32 => Ok(Ty::U64),
        Ty::S32 => Ok(Ty::S64),
        _ => Err("a wide product of this type does not exist".into()),
    }
}

fn logic(modifier: &str) -> Option<Logic> {
    match modifier {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    }
}

fn test_kind(modifier: &str) -> Option<TestKind> {
    Some(match modifier {
        "finite" => TestKind::Finite,
        "infinite" => TestKind::Infinite,
        "number" => TestKind::Number,
        "notanumber" => TestKind::NotANumber,
        "normal" => TestKind::Normal,
        "subnormal" => TestKind::Subnormal,
        _ => return None,
    })
}
