//! Integer and bit instructions (PTX ISA, 9.7.1, 9.7.2, 9.7.8).

use super::lanes::{Lane, Regs, map1, map2, map3, read, vectorised, write};
use crate::isa::{IntOp, Prmt, Reg, Ty};

/// Operations on Rust's integer types, which have no common trait.
trait Int: Lane + Ord {
    const BITS: u32;
    fn wide(self) -> i128;
    /// Keeps the low bits.
    fn cut(value: i128) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn mul_hi(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn rem(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;
    fn shl(self, by: u32) -> Self;
    fn shr(self, by: u32) -> Self;
    fn reverse(self) -> Self;
    fn ones(self) -> u32;
    fn zeros_above(self) -> u32;
    fn saturating_add(self, other: Self) -> Self;
    fn saturating_sub(self, other: Self) -> Self;
}

macro_rules! int {
    ($($t:ident, $double:ty;)*) => {$(
        impl Int for $t {
            const BITS: u32 = $t::BITS;
            #[inline(always)]
            fn wide(self) -> i128 { self as i128 }
            #[inline(always)]
            fn cut(value: i128) -> $t { value as $t }
            #[inline(always)]
            fn add(self, o: $t) -> $t { self.wrapping_add(o) }
            #[inline(always)]
            fn sub(self, o: $t) -> $t { self.wrapping_sub(o) }
            #[inline(always)]
            fn mul(self, o: $t) -> $t { self.wrapping_mul(o) }
            #[inline(always)]
            fn mul_hi(self, o: $t) -> $t { ((self as $double * o as $double) >> $t::BITS) as $t }
            // The result of a division by zero is unspecified: all ones here, as on GPUs for unsigned operands.
            #[inline(always)]
            fn div(self, o: $t) -> $t { if o == 0 { !0 } else { self.wrapping_div(o) } }
            #[inline(always)]
            fn rem(self, o: $t) -> $t { if o == 0 { self } else { self.wrapping_rem(o) } }
            #[inline(always)]
            fn and(self, o: $t) -> $t { self & o }
            #[inline(always)]
            fn or(self, o: $t) -> $t { self | o }
            #[inline(always)]
            fn xor(self, o: $t) -> $t { self ^ o }
            #[inline(always)]
            fn not(self) -> $t { !self }
            // Shifting by the width or more gives zero, or the sign.
            #[inline(always)]
            fn shl(self, by: u32) -> $t { if by < $t::BITS { self << by } else { 0 } }
            #[inline(always)]
            fn shr(self, by: u32) -> $t { (self >> by.min($t::BITS - 1)) >> ((by >= $t::BITS) as u32) }
            #[inline(always)]
            fn reverse(self) -> $t { self.reverse_bits() }
            #[inline(always)]
            fn ones(self) -> u32 { self.count_ones() }
            #[inline(always)]
            fn zeros_above(self) -> u32 { self.leading_zeros() }
            #[inline(always)]
            fn saturating_add(self, o: $t) -> $t { <$t>::saturating_add(self, o) }
            #[inline(always)]
            fn saturating_sub(self, o: $t) -> $t { <$t>::saturating_sub(self, o) }
        }
    )*};
}

int! {
    u16, u32;
    i16, i32;
    u32, u64;
    i32, i64;
    u64, u128;
    i64, i128;
}

vectorised! {
    pub(super) fn exec(op: IntOp, ty: Ty, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
        match ty {
            Ty::S16 => typed::<i16>(op, regs, d, s, mask),
            Ty::B16 | Ty::U16 => typed::<u16>(op, regs, d, s, mask),
            Ty::S32 => typed::<i32>(op, regs, d, s, mask),
            Ty::S64 => typed::<i64>(op, regs, d, s, mask),
            Ty::B64 | Ty::U64 => typed::<u64>(op, regs, d, s, mask),
            Ty::B32 | Ty::U32 => typed::<u32>(op, regs, d, s, mask),
            _ => unreachable!("no form has integers of type {ty:?}"),
        }
    }
}

#[inline(always)]
fn typed<T: Int>(op: IntOp, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let zero = T::cut(0);
    match op {
        IntOp::Add => map2(regs, d, s, mask, |a: T, b: T| a.add(b)),
        IntOp::Sub => map2(regs, d, s, mask, |a: T, b: T| a.sub(b)),
        IntOp::AddSat => map2(regs, d, s, mask, |a: T, b: T| a.saturating_add(b)),
        IntOp::SubSat => map2(regs, d, s, mask, |a: T, b: T| a.saturating_sub(b)),
        IntOp::MulLo => map2(regs, d, s, mask, |a: T, b: T| a.mul(b)),
        IntOp::MulHi => map2(regs, d, s, mask, |a: T, b: T| a.mul_hi(b)),
        IntOp::MadLo => map3(regs, d, s, mask, |a: T, b: T, c: T| a.mul(b).add(c)),
        IntOp::MadHi => map3(regs, d, s, mask, |a: T, b: T, c: T| a.mul_hi(b).add(c)),
        IntOp::MadHiSat => map3(regs, d, s, mask, |a: T, b: T, c: T| a.mul_hi(b).saturating_add(c)),
        IntOp::MulWide | IntOp::MadWide => wide::<T>(op, regs, d, s, mask),
        IntOp::Mul24Lo | IntOp::Mad24Lo | IntOp::Mul24Hi | IntOp::Mad24Hi => mul24::<T>(op, regs, d, s, mask),
        IntOp::Sad => map3(regs, d, s, mask, |a: T, b: T, c: T| c.add(a.max(b).sub(a.min(b)))),
        IntOp::Div => map2(regs, d, s, mask, |a: T, b: T| a.div(b)),
        IntOp::Rem => map2(regs, d, s, mask, |a: T, b: T| a.rem(b)),
        IntOp::Abs => map1(regs, d, s, mask, |a: T| if a < zero { zero.sub(a) } else { a }),
        IntOp::Neg => map1(regs, d, s, mask, |a: T| zero.sub(a)),
        IntOp::Min => map2(regs, d, s, mask, |a: T, b: T| a.min(b)),
        IntOp::Max => map2(regs, d, s, mask, |a: T, b: T| a.max(b)),
        IntOp::MinRelu => map2(regs, d, s, mask, |a: T, b: T| a.min(b).max(zero)),
        IntOp::MaxRelu => map2(regs, d, s, mask, |a: T, b: T| a.max(b).max(zero)),
        IntOp::And => map2(regs, d, s, mask, |a: T, b: T| a.and(b)),
        IntOp::Or => map2(regs, d, s, mask, |a: T, b: T| a.or(b)),
        IntOp::Xor => map2(regs, d, s, mask, |a: T, b: T| a.xor(b)),
        IntOp::Not => map1(regs, d, s, mask, |a: T| a.not()),
        IntOp::Cnot => map1(regs, d, s, mask, |a: T| T::cut((a == zero) as i128)),
        IntOp::Shl => map2(regs, d, s, mask, |a: T, by: u32| a.shl(by)),
        IntOp::Shr => map2(regs, d, s, mask, |a: T, by: u32| a.shr(by)),
        IntOp::Brev => map1(regs, d, s, mask, |a: T| a.reverse()),
        IntOp::Popc => map1(regs, d, s, mask, |a: T| a.ones()),
        IntOp::Clz => map1(regs, d, s, mask, |a: T| a.zeros_above()),
        IntOp::Bfind { shift } => map1(regs, d, s, mask, |a: T| {
            // The highest bit that differs from the sign.
            let above = if a < zero { a.not() } else { a }.zeros_above();
            let found = T::BITS.wrapping_sub(1).wrapping_sub(above);
            if above == T::BITS {
                u32::MAX
            } else if shift {
                above
            } else {
                found
            }
        }),
        IntOp::Bfe => map3(regs, d, s, mask, bit_field::<T>),
        IntOp::Bfi => bit_insert::<T>(regs, d, s, mask),
        IntOp::Carry { sub, carry_in, carry_out } => carry::<T>([sub, carry_in, carry_out], regs, d, s, mask),
        IntOp::Shf { left, wrap } => map3(regs, d, s, mask, |a: u32, b: u32, by: u32| {
            let by = if wrap { by & 31 } else { by.min(32) };
            let pair = (b as u64) << 32 | a as u64;
            if left { (pair << by >> 32) as u32 } else { (pair >> by) as u32 }
        }),
        IntOp::Prmt(mode) => map3(regs, d, s, mask, |a: u32, b: u32, c: u32| permute(mode, a, b, c)),
        IntOp::Lop3(lut) => map3(regs, d, s, mask, |a: u32, b: u32, c: u32| lop3(lut, a, b, c)),
        IntOp::Dp4a { a_signed, b_signed } => map3(regs, d, s, mask, |a: u32, b: u32, c: u32| {
            let product = |i| byte(a, a_signed, i).wrapping_mul(byte(b, b_signed, i)) as u32;
            (0..4).fold(c, |c, i| c.wrapping_add(product(i)))
        }),
        IntOp::Dp2a { a_signed, b_signed, high } => map3(regs, d, s, mask, |a: u32, b: u32, c: u32| {
            let product = |i| half(a, a_signed, i).wrapping_mul(byte(b, b_signed, i + 2 * high as u32)) as u32;
            (0..2).fold(c, |c, i| c.wrapping_add(product(i)))
        }),
    }
}

/// Bit i of the table is the result where the bits (a, b, c) form the number i.
#[inline(always)]
fn lop3(lut: u8, a: u32, b: u32, c: u32) -> u32 {
    let term = |i: u32| if lut >> i & 1 == 1 { u32::MAX } else { 0 };
    (!a & !b & !c & term(0))
        | (!a & !b & c & term(1))
        | (!a & b & !c & term(2))
        | (!a & b & c & term(3))
        | (a & !b & !c & term(4))
        | (a & !b & c & term(5))
        | (a & b & !c & term(6))
        | (a & b & c & term(7))
}

/// Byte `i` of a word.
#[inline(always)]
fn byte(word: u32, signed: bool, i: u32) -> i32 {
    let byte = (word >> (8 * i)) as u8;
    if signed { byte as i8 as i32 } else { byte as i32 }
}

/// Half `i` of a word.
#[inline(always)]
fn half(word: u32, signed: bool, i: u32) -> i32 {
    let half = (word >> (16 * i)) as u16;
    if signed { half as i16 as i32 } else { half as i32 }
}

/// Products of twice the width.
#[inline(always)]
fn wide<T: Int>(op: IntOp, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let mad = op == IntOp::MadWide;
    if T::BITS == 16 {
        let product = |a: T, b: T| (a.wide() as i32).wrapping_mul(b.wide() as i32) as u32;
        if mad {
            map3(regs, d, s, mask, |a: T, b: T, c: u32| product(a, b).wrapping_add(c));
        } else {
            map2(regs, d, s, mask, product);
        }
    } else {
        let product = |a: T, b: T| (a.wide() as i64 as u64).wrapping_mul(b.wide() as i64 as u64);
        if mad {
            map3(regs, d, s, mask, |a: T, b: T, c: u64| product(a, b).wrapping_add(c));
        } else {
            map2(regs, d, s, mask, product);
        }
    }
}

/// Products of the low 24 bits: the low or the high 32 bits of 48.
#[inline(always)]
fn mul24<T: Int>(op: IntOp, regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let signed = T::cut(-1) < T::cut(0);
    let low24 = |a: u32| if signed { ((a << 8) as i32 >> 8) as i64 } else { (a & 0xff_ffff) as i64 };
    let high = matches!(op, IntOp::Mul24Hi | IntOp::Mad24Hi);
    let product = |a: u32, b: u32| ((low24(a) * low24(b)) >> if high { 16 } else { 0 }) as u32;
    if matches!(op, IntOp::Mad24Lo | IntOp::Mad24Hi) {
        map3(regs, d, s, mask, |a: u32, b: u32, c: u32| product(a, b).wrapping_add(c));
    } else {
        map2(regs, d, s, mask, product);
    }
}

/// `bfe`: extracts `len` bits from `pos` on, filled up with the top bit of the field (signed) or with zeros.
#[inline(always)]
fn bit_field<T: Int>(a: T, pos: u32, len: u32) -> T {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return T::cut(0);
    }
    let signed = T::cut(-1) < T::cut(0);
    let sign_bit = (pos + len - 1).min(T::BITS - 1);
    let sign = signed && a.wide() >> sign_bit & 1 == 1;
    let fill: i128 = if sign { -1 } else { 0 };
    let bits = a.wide() & (u64::MAX >> (64 - T::BITS)) as i128;
    let field = if pos < T::BITS { bits >> pos } else { 0 };
    let kept = len.min(T::BITS.saturating_sub(pos));
    let keep = (1i128 << kept) - 1;
    T::cut(field & keep | fill & !keep)
}

/// `bfi`: inserts the low `len` bits of a into b from `pos` on.
#[inline(always)]
fn bit_insert<T: Int>(regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let (a, b) = (read::<T>(regs, s[0]), read::<T>(regs, s[1]));
    let (pos, len) = (read::<u32>(regs, s[2]), read::<u32>(regs, s[3]));
    let mut out = *b;
    for i in 0..32 {
        let (pos, len) = (pos[i] & 0xff, len[i] & 0xff);
        let field = if pos < T::BITS { ((1i128 << len.min(64)) - 1) << pos } else { 0 };
        let (a, b) = (T::get(a[i]).wide(), T::get(b[i]).wide());
        out[i] = T::cut(b & !field | (a << pos.min(63)) & field).put();
    }
    write(regs, d, mask, &out);
}

/// Additions and subtractions with carry. As on hardware (sm_90), a difference is a + !b + 1, so that CC.CF is set when
/// nothing is borrowed. The ISA speaks of a borrow; the difference shows when `addc` follows `sub.cc`, or `subc`
/// `add.cc`.
#[inline(always)]
fn carry<T: Int>(options: [bool; 3], regs: &mut Regs, d: Reg, s: &[Reg], mask: u32) {
    let [sub, carry_in, carry_out] = options;
    let (a, b) = (read::<T>(regs, s[0]), read::<T>(regs, s[1]));
    let unsigned = (u64::MAX >> (64 - T::BITS)) as i128;
    let mut out = *a;
    let mut carries = 0u32;
    for i in 0..32 {
        let c = (carry_in && regs.carry >> i & 1 == 1) as i128;
        let (a, b) = (T::get(a[i]).wide() & unsigned, T::get(b[i]).wide() & unsigned);
        let sum = if sub { a + (b ^ unsigned) + if carry_in { c } else { 1 } } else { a + b + c };
        out[i] = T::cut(sum).put();
        carries |= ((sum > unsigned) as u32) << i;
    }
    write(regs, d, mask, &out);
    if carry_out {
        regs.carry = regs.carry & !mask | carries & mask;
    }
}

/// `prmt`: selects bytes of {b, a} by the selectors in c, or by a fixed pattern.
#[inline(always)]
fn permute(mode: Prmt, a: u32, b: u32, c: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    let low = c & 3;
    let pick = |i: u32| -> u32 {
        let selector = match mode {
            Prmt::Index => c >> (4 * i) & 15,
            Prmt::F4e => low + i,
            Prmt::B4e => (low + 8 - i) & 7,
            Prmt::Rc8 => low,
            Prmt::Ecl => i.max(low),
            Prmt::Ecr => i.min(low),
            Prmt::Rc16 => (low & 1) * 2 + (i & 1),
        };
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        // The top bit of a selector replicates the sign of the byte.
        if selector & 8 != 0 { (byte as i8 >> 7) as u8 as u32 } else { byte as u32 }
    };
    pick(0) | pick(1) << 8 | pick(2) << 16 | pick(3) << 24
}
