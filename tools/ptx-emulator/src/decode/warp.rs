//! Warp-wide instructions, barriers and matrix products (PTX ISA, 9.7.13 and 9.7.14).

use super::form::Form;
use super::{Class, Decoded, Decoder};
use crate::isa::{AtomOp, BarKind, File, Mma, Op, Reg, ShflMode, Ty, VoteMode};
use crate::parser::ast::Operand;

impl<'a> Decoder<'a> {
    pub(super) fn warp(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<bool> {
        match form.name {
            "shfl" => self.shfl(form, o)?,
            "vote" => self.vote(form, o)?,
            "match" => {
                let ty = form.ty()?;
                self.need_sync(form)?;
                self.count(o, 3)?;
                let (a, mask) = (self.source(&o[1], ty)?, self.source(&o[2], Ty::B32)?);
                if form.take("all") {
                    let d = self.pair(&o[0], Ty::B32, Ty::Pred)?;
                    self.emit(Op::MatchAll, Class::Shuffle, &d, &[mask, a]);
                } else if form.take("any") {
                    let d = self.destination(&o[0], Ty::B32)?;
                    self.emit(Op::MatchAny, Class::Shuffle, &[d], &[mask, a]);
                } else {
                    return Err("match without a mode".into());
                }
            }
            "activemask" => {
                form.ty()?;
                self.count(o, 1)?;
                let d = self.destination(&o[0], Ty::B32)?;
                self.emit(Op::ActiveMask, Class::Shuffle, &[d], &[]);
            }
            "redux" => {
                let ty = form.ty()?;
                self.need_sync(form)?;
                self.count(o, 3)?;
                let op = form.pick(|m| match m {
                    "add" => Some(AtomOp::Add),
                    "min" => Some(AtomOp::Min),
                    "max" => Some(AtomOp::Max),
                    "and" => Some(AtomOp::And),
                    "or" => Some(AtomOp::Or),
                    "xor" => Some(AtomOp::Xor),
                    _ => None,
                });
                let op = op.ok_or("redux without an operation")?;
                let (d, a) = (self.destination(&o[0], ty)?, self.source(&o[1], ty)?);
                let mask = self.source(&o[2], Ty::B32)?;
                self.emit(Op::Redux { op, ty }, Class::Shuffle, &[d], &[mask, a]);
            }
            "elect" => {
                self.need_sync(form)?;
                self.count(o, 2)?;
                let (d, mask) = (self.pair(&o[0], Ty::B32, Ty::Pred)?, self.source(&o[1], Ty::B32)?);
                self.emit(Op::Elect, Class::Shuffle, &d, &[mask]);
            }
            "bar" | "barrier" => self.barrier(form, o)?,
            "mma" => self.mma(form, o)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn need_sync(&self, form: &mut Form<'a>) -> Decoded<()> {
        if form.take("sync") { Ok(()) } else { Err(format!("`{}` without .sync is not supported", form.name)) }
    }

    fn shfl(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        self.need_sync(form)?;
        let mode = form.pick(|m| match m {
            "up" => Some(ShflMode::Up),
            "down" => Some(ShflMode::Down),
            "bfly" => Some(ShflMode::Bfly),
            "idx" => Some(ShflMode::Idx),
            _ => None,
        });
        let mode = mode.ok_or("shfl without a mode")?;
        self.count(o, 5)?;
        let d = self.pair(&o[0], ty, Ty::Pred)?;
        let mask = self.source(&o[4], Ty::B32)?;
        let s = [self.source(&o[1], ty)?, self.source(&o[2], Ty::B32)?, self.source(&o[3], Ty::B32)?];
        self.emit(Op::Shfl(mode), Class::Shuffle, &d, &[mask, s[0], s[1], s[2]]);
        Ok(())
    }

    fn vote(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let ty = form.ty()?;
        self.need_sync(form)?;
        let mode = form.pick(|m| match m {
            "all" => Some(VoteMode::All),
            "any" => Some(VoteMode::Any),
            "uni" => Some(VoteMode::Uni),
            "ballot" => Some(VoteMode::Ballot),
            _ => None,
        });
        let mode = mode.ok_or("vote without a mode")?;
        self.count(o, 3)?;
        let d = self.destination(&o[0], ty)?;
        let (p, mask) = (self.source(&o[1], Ty::Pred)?, self.source(&o[2], Ty::B32)?);
        self.emit(Op::Vote(mode), Class::Shuffle, &[d], &[mask, p]);
        Ok(())
    }

    /// Sources of a barrier: its number, its thread count (0: the whole block), and a predicate to reduce.
    fn barrier(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        if form.take("warp") {
            self.need_sync(form)?;
            self.count(o, 1)?;
            let mask = self.source(&o[0], Ty::B32)?;
            self.emit(Op::WarpSync, Class::Barrier, &[], &[mask]);
            return Ok(());
        }
        let zero = self.constant(File::B32, 0);
        if form.take("red") {
            let ty = form.ty()?;
            let kind = form.pick(|m| match m {
                "popc" => Some(BarKind::Popc),
                "and" => Some(BarKind::And),
                "or" => Some(BarKind::Or),
                _ => None,
            });
            let kind = kind.ok_or("bar.red without an operation")?;
            let (count, last) = match o.len() {
                3 => (zero, &o[2]),
                4 => (self.source(&o[2], Ty::U32)?, &o[3]),
                n => return Err(format!("bar.red takes 3 or 4 operands, {n} given")),
            };
            let d = self.destination(&o[0], ty)?;
            let (id, p) = (self.source(&o[1], Ty::U32)?, self.source(last, Ty::Pred)?);
            self.emit(Op::Bar(kind), Class::Barrier, &[d], &[id, count, p]);
            return Ok(());
        }
        let kind = if form.take("arrive") {
            BarKind::Arrive
        } else if form.take("sync") {
            BarKind::Sync
        } else {
            return Err(format!("this form of `{}` is not supported", form.name));
        };
        let (id, count) = match o {
            [id] if kind == BarKind::Sync => (self.source(id, Ty::U32)?, zero),
            [id, count] => (self.source(id, Ty::U32)?, self.source(count, Ty::U32)?),
            _ => return Err("a barrier takes its number and perhaps a thread count".into()),
        };
        self.emit(Op::Bar(kind), Class::Barrier, &[], &[id, count]);
        Ok(())
    }

    fn mma(&mut self, form: &mut Form<'a>, o: &[Operand<'a>]) -> Decoded<()> {
        let (c, _, a, _) = (form.ty()?, form.ty()?, form.ty()?, form.ty()?);
        let k = form.pick(|m| match m {
            "m16n8k4" => Some(4u8),
            "m16n8k8" => Some(8),
            "m16n8k16" => Some(16),
            _ => None,
        });
        let k = k.ok_or("this shape of mma is not supported")?;
        self.count(o, 4)?;
        // 32-bit registers: 16 x k elements of A, k x 8 of B, 16 x 8 of C over 32 lanes.
        let bytes = if a == Ty::Tf32 { 4 } else { 2 };
        let registers_of_a = 16 * k as usize * bytes / 128;
        let accumulators = if c == Ty::F32 { 4 } else { 2 };
        let word = if c == Ty::F32 { Ty::F32 } else { Ty::B32 };
        let destinations = self.destinations(&o[0], word, accumulators)?;
        let mut sources: Vec<Reg> = self.sources(&o[1], Ty::B32, registers_of_a)?;
        sources.extend(self.sources(&o[2], Ty::B32, registers_of_a / 2)?);
        sources.extend(self.sources(&o[3], word, accumulators)?);
        self.emit(Op::Mma(Mma { k, operands: a, accumulators: c }), Class::Mma, &destinations, &sources);
        Ok(())
    }
}
