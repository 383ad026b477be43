//! `mma.sync.m16n8kK` (PTX ISA, 9.7.14.5): gathers the fragments into matrices, multiplies, and scatters the result.
//!
//! Products are exact and are added in f32 along k. A tensor core's order and truncation are not modelled.

use super::lanes::{Regs, read};
use crate::isa::{Mma, Reg, Ty};
use half::{bf16, f16};

/// The low (0) or high (1) element of a packed pair.
fn half(ty: Ty, word: u32, high: usize) -> f32 {
    let bits = (word >> (16 * high)) as u16;
    if ty == Ty::Bf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() }
}

pub(super) fn exec(mma: Mma, regs: &mut Regs, d: &[Reg], s: &[Reg]) {
    let k = mma.k as usize;
    let tf32 = mma.operands == Ty::Tf32;
    let of_a = 16 * k * if tf32 { 4 } else { 2 } / 128;
    let (a_regs, rest) = s.split_at(of_a);
    let (b_regs, c_regs) = rest.split_at(of_a / 2);
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    for (i, reg) in a_regs.iter().enumerate() {
        let words = read::<u32>(regs, *reg);
        for (lane, word) in words.iter().enumerate() {
            // Odd registers hold rows 8 to 15; the second pair of registers holds the right half of the columns.
            let (row, t) = (lane / 4 + i % 2 * 8, lane % 4);
            if tf32 {
                a[row][t + i / 2 * 4] = f32::from_bits(word & !0x1fff);
            } else {
                let column = 2 * t + i / 2 * 8;
                (a[row][column], a[row][column + 1]) = (half(mma.operands, *word, 0), half(mma.operands, *word, 1));
            }
        }
    }
    for (i, reg) in b_regs.iter().enumerate() {
        let words = read::<u32>(regs, *reg);
        for (lane, word) in words.iter().enumerate() {
            let (column, t) = (lane / 4, lane % 4);
            if tf32 {
                b[t + i * 4][column] = f32::from_bits(word & !0x1fff);
            } else {
                let row = 2 * t + i * 8;
                (b[row][column], b[row + 1][column]) = (half(mma.operands, *word, 0), half(mma.operands, *word, 1));
            }
        }
    }
    let mut c = [[0f32; 8]; 16];
    let wide = mma.accumulators == Ty::F32;
    for (i, reg) in c_regs.iter().enumerate() {
        let words = *read::<u32>(regs, *reg);
        for (lane, word) in words.iter().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            if wide {
                c[row + i / 2 * 8][column + i % 2] = f32::from_bits(*word);
            } else {
                let row = &mut c[row + i * 8];
                (row[column], row[column + 1]) = (half(Ty::F16, *word, 0), half(Ty::F16, *word, 1));
            }
        }
    }
    product(&a, &b, &mut c, k);
    for (i, reg) in d.iter().enumerate() {
        for lane in 0..32 {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let value = if wide {
                c[row + i / 2 * 8][column + i % 2].to_bits()
            } else {
                let row = &c[row + i * 8];
                let bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
                bits(row[column]) | bits(row[column + 1]) << 16
            };
            regs.set_lane(*reg, lane, u64::from(value));
        }
    }
}

super::lanes::vectorised! {
    fn product(a: &[[f32; 16]; 16], b: &[[f32; 8]; 16], c: &mut [[f32; 8]; 16], k: usize) {
        for (a, c) in a.iter().zip(c.iter_mut()) {
            for (a, b) in a[..k].iter().zip(&b[..k]) {
                for (c, b) in c.iter_mut().zip(b) {
                    *c = a.mul_add(*b, *c);
                }
            }
        }
    }
}
