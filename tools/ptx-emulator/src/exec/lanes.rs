//! Registers as vectors of 32 lanes, and operations on all lanes at once.
//!
//! An operation computes all lanes and stores the active ones. Its loop has no branches, so the compiler vectorises it;
//! [`vectorised!`] compiles it for several instruction sets.

use crate::isa::{File, Reg};
use half::{bf16, f16};
use std::sync::LazyLock;

/// A register of a warp: one word per lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes<T>(pub [T; 32]);

/// The registers of a warp.
#[derive(Default)]
pub(crate) struct Regs {
    pub b32: Vec<Lanes<u32>>,
    pub b64: Vec<Lanes<u64>>,
    /// Predicates: a bit per lane.
    pub pred: Vec<u32>,
    /// The carry flag CC.CF, a bit per lane.
    pub carry: u32,
    /// Which lanes of each register have been written, per file; only kept for tracked registers.
    pub written: [Vec<u32>; 3],
}

impl Regs {
    pub(crate) fn reset(&mut self, counts: [usize; 3]) {
        self.b32.resize(counts[0], Lanes([0; 32]));
        self.b64.resize(counts[1], Lanes([0; 32]));
        self.pred.resize(counts[2], 0);
        for (written, count) in self.written.iter_mut().zip(counts) {
            written.clear();
            written.resize(count, 0);
        }
    }

    /// The value of a 32- or 64-bit register in one lane, zero-extended.
    #[inline(always)]
    pub(crate) fn lane(&self, reg: Reg, lane: usize) -> u64 {
        match reg.file() {
            File::B32 => self.b32[reg.index()].0[lane] as u64,
            File::B64 => self.b64[reg.index()].0[lane],
            File::Pred => (self.pred[reg.index()] >> lane & 1) as u64,
        }
    }

    #[inline(always)]
    pub(crate) fn set_lane(&mut self, reg: Reg, lane: usize, value: u64) {
        match reg.file() {
            File::B32 => self.b32[reg.index()].0[lane] = value as u32,
            File::B64 => self.b64[reg.index()].0[lane] = value,
            File::Pred => {
                let word = &mut self.pred[reg.index()];
                *word = *word & !(1 << lane) | ((value & 1) as u32) << lane;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, reg: Reg, mask: u32, value: u32) {
        let word = &mut self.pred[reg.index()];
        *word = *word & !mask | value & mask;
    }
}

/// The lanes whose bit is set, lowest first.
#[inline(always)]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane)
    })
}

/// The word of a register file: 32 or 64 bits.
pub(crate) trait Word: Copy + Default {
    fn file(regs: &Regs) -> &[Lanes<Self>];
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<Self>];
}

impl Word for u32 {
    #[inline(always)]
    fn file(regs: &Regs) -> &[Lanes<u32>] {
        &regs.b32
    }
    #[inline(always)]
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<u32>] {
        &mut regs.b32
    }
}

impl Word for u64 {
    #[inline(always)]
    fn file(regs: &Regs) -> &[Lanes<u64>] {
        &regs.b64
    }
    #[inline(always)]
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<u64>] {
        &mut regs.b64
    }
}

/// A type that lanes are read and written as.
pub(crate) trait Lane: Copy {
    type Word: Word;
    fn get(word: Self::Word) -> Self;
    fn put(self) -> Self::Word;
}

macro_rules! lane {
    ($($t:ty, $word:ty, |$w:ident| $get:expr, |$v:ident| $put:expr;)*) => {$(
        impl Lane for $t {
            type Word = $word;
            #[inline(always)]
            fn get($w: $word) -> $t {
                $get
            }
            #[inline(always)]
            fn put(self) -> $word {
                let $v = self;
                $put
            }
        }
    )*};
}

lane! {
    u8, u32, |w| w as u8, |v| v as u32;
    i8, u32, |w| w as i8, |v| v as i32 as u32;
    u16, u32, |w| w as u16, |v| v as u32;
    i16, u32, |w| w as i16, |v| v as i32 as u32;
    u32, u32, |w| w, |v| v;
    i32, u32, |w| w as i32, |v| v as u32;
    f32, u32, |w| f32::from_bits(w), |v| v.to_bits();
    f16, u32, |w| f16::from_bits(w as u16), |v| v.to_bits() as u32;
    bf16, u32, |w| bf16::from_bits(w as u16), |v| v.to_bits() as u32;
    [f16; 2], u32, |w| [f16::from_bits(w as u16), f16::from_bits((w >> 16) as u16)],
        |v| v[0].to_bits() as u32 | (v[1].to_bits() as u32) << 16;
    [bf16; 2], u32, |w| [bf16::from_bits(w as u16), bf16::from_bits((w >> 16) as u16)],
        |v| v[0].to_bits() as u32 | (v[1].to_bits() as u32) << 16;
    u64, u64, |w| w, |v| v;
    i64, u64, |w| w as i64, |v| v as u64;
    f64, u64, |w| f64::from_bits(w), |v| v.to_bits();
}

#[inline(always)]
pub(crate) fn read<T: Lane>(regs: &Regs, reg: Reg) -> &[T::Word; 32] {
    &T::Word::file(regs)[reg.index()].0
}

/// Stores the lanes of `mask`.
#[inline(always)]
pub(crate) fn write<W: Word>(regs: &mut Regs, reg: Reg, mask: u32, values: &[W; 32]) {
    let out = &mut W::file_mut(regs)[reg.index()].0;
    if mask == u32::MAX {
        *out = *values;
        return;
    }
    for i in 0..32 {
        out[i] = if mask >> i & 1 == 1 { values[i] } else { out[i] };
    }
}

#[inline(always)]
pub(crate) fn map1<A: Lane, D: Lane>(regs: &mut Regs, d: Reg, s: &[Reg], mask: u32, f: impl Fn(A) -> D) {
    let a = read::<A>(regs, s[0]);
    let mut out = [D::Word::default(); 32];
    for i in 0..32 {
        out[i] = f(A::get(a[i])).put();
    }
    write(regs, d, mask, &out);
}

#[inline(always)]
pub(crate) fn map2<A: Lane, B: Lane, D: Lane>(regs: &mut Regs, d: Reg, s: &[Reg], mask: u32, f: impl Fn(A, B) -> D) {
    let (a, b) = (read::<A>(regs, s[0]), read::<B>(regs, s[1]));
    let mut out = [D::Word::default(); 32];
    for i in 0..32 {
        out[i] = f(A::get(a[i]), B::get(b[i])).put();
    }
    write(regs, d, mask, &out);
}

#[inline(always)]
pub(crate) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    regs: &mut Regs,
    d: Reg,
    s: &[Reg],
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let (a, b, c) = (read::<A>(regs, s[0]), read::<B>(regs, s[1]), read::<C>(regs, s[2]));
    let mut out = [D::Word::default(); 32];
    for i in 0..32 {
        out[i] = f(A::get(a[i]), B::get(b[i]), C::get(c[i])).put();
    }
    write(regs, d, mask, &out);
}

/// Compares two sources: a bit per lane.
#[inline(always)]
pub(crate) fn test2<A: Lane>(regs: &Regs, s: &[Reg], f: impl Fn(A, A) -> bool) -> u32 {
    let (a, b) = (read::<A>(regs, s[0]), read::<A>(regs, s[1]));
    let mut bits = 0;
    for i in 0..32 {
        bits |= (f(A::get(a[i]), A::get(b[i])) as u32) << i;
    }
    bits
}

/// The instruction sets that functions are compiled for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Base,
    Avx2,
    Avx512,
}

/// The best one that this processor has: all features that [`vectorised!`] enables for it.
#[inline(always)]
pub(crate) fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(detected);
    *LEVEL
}

fn detected() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") && has!("avx512cd");
        if avx2 && has!("f16c") && avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Base
}

/// Defines a function that is compiled for AVX-512, AVX2 with FMA, and the baseline; a call uses the best one
/// available.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            match $crate::exec::lanes::level() {
                // SAFETY: `level` is `Avx512` only where the processor has all features of `avx512`.
                $crate::exec::lanes::Level::Avx512 => return unsafe { avx512($($arg),*) },
                // SAFETY: `level` is `Avx2` only where the processor has all features of `avx2`.
                $crate::exec::lanes::Level::Avx2 => return unsafe { avx2($($arg),*) },
                $crate::exec::lanes::Level::Base => {}
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;
