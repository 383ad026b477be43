//! AMX: products of tiles of bf16, sixteen rows of `a` by sixteen columns of `b`, 32 numbers of each along `k`.
//!
//! `tdpbf16ps` sums the products at even places along `k` and those at odd places in two chains of fused multiply-adds
//! from zero, and adds both sums to the tile. It treats denormal numbers as zero. (Intel's Software Developer's Manual,
//! volume 2.)

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::LazyLock;

use super::avx512::{Avx512, bf16_is_there, transposed, write_lanes};
use super::pack::{Kernel, LANES, Operand, Tile};

/// Units in a row of a tile, of two bf16 each.
const UNITS: usize = LANES;

/// Products of tiles of bf16. A value shows that this process uses AVX-512, and that AMX and AVX-512 BF16 are there.
#[derive(Clone, Copy)]
pub(super) struct Amx(Avx512<true>);

impl Amx {
    /// The kernel, if this process uses its instructions.
    pub(super) fn available() -> Option<Self> {
        Avx512::available().filter(|_| is_there()).map(Self)
    }
}

/// Whether the processor has the instructions and Linux lets this process use them.
pub(super) fn is_there() -> bool {
    static IS_THERE: LazyLock<bool> = LazyLock::new(|| {
        // CPUID 7, EDX: AMX-BF16 and AMX-TILE.
        let tiles = __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == (1 << 22 | 1 << 24);
        tiles && bf16_is_there() && permitted()
    });
    *IS_THERE
}

/// Asks Linux for permission to use the tile registers, which it has to save at context switches. Without it, their
/// first use kills the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    // SAFETY: the call only grants this permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The operand of `ldtilecfg`: eight tiles of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Kernel for Amx {
    const PER: usize = 2;
    // Two tiles of rows by two of columns.
    const ROWS: usize = 2 * LANES;
    const STRIPS: usize = 2;
    const BLOCK: usize = 256;
    const UNITS: usize = 768;

    fn units(k: usize) -> usize {
        k.div_ceil(2).next_multiple_of(UNITS)
    }

    fn padded(rows: usize) -> usize {
        rows.next_multiple_of(LANES)
    }

    fn panel(_rows: usize) -> usize {
        LANES
    }

    fn first_row(rows: usize, index: usize) -> usize {
        rows.min(index * Self::ROWS)
    }

    unsafe fn pack_rows(self, to: *mut u32, a: Operand, tiles: Range<usize>) {
        // SAFETY: by the caller; `self` shows that the instructions are there.
        unsafe { self.pack_panels(to, a, tiles) }
    }

    fn pack_columns(self, to: &mut [u32], b: Operand) {
        self.0.pack_columns(to, b);
    }

    fn begin(self) {
        // SAFETY: `self` shows that the instruction is there; it reads a static and sets the tiles' shapes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(readonly, nostack, preserves_flags)) }
    }

    fn end(self) {
        // SAFETY: `self` shows that the instruction is there; it clears the tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }

    unsafe fn tile(self, tile: Tile) {
        // SAFETY: by the caller; `self` shows that the instructions are there.
        unsafe {
            match (tile.rows > LANES, tile.columns > LANES) {
                (true, true) => multiply::<2, 2>(tile),
                (true, false) => multiply::<2, 1>(tile),
                (false, true) => multiply::<1, 2>(tile),
                (false, false) => multiply::<1, 1>(tile),
            }
        }
    }
}

impl Amx {
    /// Panels of sixteen rows: `[units / 16, 16 rows, 16 units]`.
    ///
    /// # Safety
    /// As of [`Kernel::pack_rows`].
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack_panels(self, to: *mut u32, a: Operand, tiles: Range<usize>) {
        let units = Amx::units(a.k);
        for first in (tiles.start * Amx::ROWS..a.count.min(tiles.end * Amx::ROWS)).step_by(LANES) {
            let count = LANES.min(a.count - first);
            for unit in (0..units).step_by(UNITS) {
                let rows = if a.along == 1 {
                    self.0.along(a, first, count, (2 * unit).min(a.k))
                } else {
                    let mut by_unit = [_mm512_setzero_si512(); LANES];
                    for (index, rows) in by_unit.iter_mut().enumerate() {
                        *rows = self.0.across(a, first, count, unit + index);
                    }
                    transposed(by_unit)
                };
                for (row, units_) in rows.into_iter().enumerate() {
                    // SAFETY: by the caller there is room for whole panels; `to` is aligned to a register, as are
                    // panels and rows.
                    unsafe { _mm512_store_si512(to.add(first * units + (unit + row) * LANES).cast(), units_) };
                }
            }
        }
    }
}

/// Tiles 0 to 3 hold sums, 4 and 5 rows of `a`, 6 and 7 columns of `b`.
///
/// # Safety
/// As of [`Kernel::tile`], for a tile of at most `R` times 16 rows and `V` times 16 columns; AMX is there.
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const R: usize, const V: usize>(to: Tile) {
    const ROW: usize = 64;
    let steps = to.units / UNITS;
    // SAFETY: by the caller. `tileloadd` reads whole panels and strips, which are padded; whole tiles are stored to
    // `c`, others to `sums`, of which only rows and columns of the result are copied.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nomem, nostack, preserves_flags)
        );
        let (mut a, mut b) = (to.a, to.b);
        for _ in 0..steps {
            macro_rules! step {
                ($($line:literal),*) => {
                    asm!($($line),*, a = in(reg) a, b = in(reg) b, a2 = in(reg) a.wrapping_add(to.a_apart),
                         b2 = in(reg) b.wrapping_add(to.b_apart), s = in(reg) ROW, options(readonly, nostack, preserves_flags))
                };
            }
            match (R, V) {
                (2, 2) => step!(
                    "tileloadd tmm6, [{b} + {s}]",
                    "tileloadd tmm4, [{a} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b2} + {s}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a2} + {s}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ),
                (2, 1) => step!(
                    "tileloadd tmm6, [{b} + {s}]",
                    "tileloadd tmm4, [{a} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a2} + {s}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "/* {b2} */"
                ),
                (1, 2) => step!(
                    "tileloadd tmm6, [{b} + {s}]",
                    "tileloadd tmm4, [{a} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b2} + {s}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "/* {a2} */"
                ),
                _ => step!(
                    "tileloadd tmm6, [{b} + {s}]",
                    "tileloadd tmm4, [{a} + {s}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "/* {a2} {b2} */"
                ),
            }
            (a, b) = (a.add(UNITS * LANES), b.add(UNITS * LANES));
        }
        let (rows, columns) = (to.rows, to.columns);
        if rows == R * LANES && columns == V * LANES && !to.accumulate && to.scale == 1.0 {
            let c = |row: usize, column: usize| to.c.wrapping_add(row * LANES * to.stride + column * LANES);
            let stride = to.stride * size_of::<f32>();
            asm!("tilestored [{} + {}], tmm0", in(reg) c(0, 0), in(reg) stride, options(nostack, preserves_flags));
            if V == 2 {
                asm!("tilestored [{} + {}], tmm1", in(reg) c(0, 1), in(reg) stride, options(nostack, preserves_flags));
            }
            if R == 2 {
                asm!("tilestored [{} + {}], tmm2", in(reg) c(1, 0), in(reg) stride, options(nostack, preserves_flags));
            }
            if R == 2 && V == 2 {
                asm!("tilestored [{} + {}], tmm3", in(reg) c(1, 1), in(reg) stride, options(nostack, preserves_flags));
            }
            return;
        }
        let mut sums = Sums([[0.0; LANES]; 4 * LANES]);
        let at = sums.0.as_mut_ptr();
        asm!(
            "tilestored [{0} + {4}], tmm0", "tilestored [{1} + {4}], tmm1", "tilestored [{2} + {4}], tmm2", "tilestored [{3} + {4}], tmm3",
            in(reg) at, in(reg) at.add(LANES), in(reg) at.add(2 * LANES), in(reg) at.add(3 * LANES), in(reg) ROW,
            options(nostack, preserves_flags)
        );
        let scale = _mm512_set1_ps(to.scale);
        for row in 0..rows {
            for strip in 0..V {
                let sum = &sums.0[(2 * (row / LANES) + strip) * LANES + row % LANES];
                let (c, columns) = (to.c.add(row * to.stride + strip * LANES), columns - strip * LANES);
                let sum = _mm512_load_ps(sum.as_ptr());
                if columns >= LANES {
                    write_lanes::<true>(&to, c, columns, sum, scale)
                } else {
                    write_lanes::<false>(&to, c, columns, sum, scale)
                }
            }
        }
    }
}

#[repr(align(64))]
struct Sums([[f32; LANES]; 4 * LANES]);
