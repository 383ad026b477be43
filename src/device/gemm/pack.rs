//! The layout of packed operands, the order of sums, and what a kernel has to provide.

use std::alloc::{Layout, handle_alloc_error};

use crate::device::pages::Pages;

/// Columns of a strip of `b`: the 32-bit lanes of an AVX-512 register, a row of an AMX tile.
pub(super) const LANES: usize = 16;

/// The most units in a piece: a tile's two strips of that length fit an L1 cache of 32 KiB.
const DEPTH: usize = 256;

/// Units in a piece along `k`. Each piece is summed on its own and then added to the result, so this determines the
/// bits of a product and must depend on the length alone.
pub(super) fn depth(units: usize) -> usize {
    units.div_ceil(units.div_ceil(DEPTH)).next_multiple_of(LANES)
}

/// As [`depth`], for pairs of bf16: a constant, so that bf16 runs keep the bits of earlier versions.
pub(super) const PAIRS_DEPTH: usize = 160;

/// `count` rows of `a`, or columns of `b`, of `k` numbers each. `apart` is the distance between rows (columns), `along`
/// the distance along `k`; one of the two is 1.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub from: &'a [f32],
    pub apart: usize,
    pub along: usize,
    pub count: usize,
    pub k: usize,
}

impl Operand<'_> {
    /// At most `count` rows or columns from `first` on, and at most `k` numbers of each from `start` on.
    pub(super) fn part(self, first: usize, count: usize, start: usize, k: usize) -> Self {
        let from = &self.from[first * self.apart + start * self.along..];
        Self { from, count: count.min(self.count - first), k: k.min(self.k - start), ..self }
    }
}

/// A tile of the result and the pieces to compute it from.
pub(super) struct Tile {
    /// Its first element; rows are `stride` apart.
    pub c: *mut f32,
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
    /// Add to the tile instead of overwriting it.
    pub accumulate: bool,
    pub scale: f32,
    /// Rows of `a`, from the piece's first unit on; if they are in several panels, these are `a_apart` apart.
    pub a: *const u32,
    pub a_apart: usize,
    /// The distances between rows of `a` and between units, one of which is 1. In a panel, that of rows is 1, and that
    /// of units the number of rows.
    pub a_row: usize,
    pub a_unit: usize,
    /// Strips of `b`, from the piece's first unit on, `b_apart` apart, and the distance between units: [`LANES`] if
    /// they are packed.
    pub b: *const u32,
    pub b_apart: usize,
    pub b_unit: usize,
    pub units: usize,
}

/// Packs operands, and multiplies tiles of them. A value of a kernel's type exists only if this process uses its
/// instructions.
///
/// A *unit* is 32 bits of packed numbers that are neighbours along `k`. Strips of `b` are `[units, LANES]`, panels of
/// `a` `[units, rows]` unless the kernel has a layout of its own. Padding is zero.
pub(super) trait Kernel: Copy + Send + Sync {
    /// Numbers in a unit.
    const PER: usize;
    /// The most rows of a tile.
    const ROWS: usize;
    /// The most strips of a tile.
    const STRIPS: usize;
    /// The most rows in a block of `a`; with [`Self::UNITS`], half of an L2 cache.
    const BLOCK: usize;
    /// The most units of them.
    const UNITS: usize;
    /// Rows of `a` of at most this many units are read where they are, not packed. Not zero only if units are the
    /// operand's own numbers in their order, panels have no padding, and [`Self::tile`] reads [`Tile::a_row`].
    const ROWS_IN_PLACE: usize = 0;
    /// An operand that is contiguous across `k`, a row-major `b` or a transposed `a`, is read where it is if the other
    /// one has at most this many rows or columns, each of which uses all of it. Not zero only if, as well,
    /// [`Self::tile`] reads [`Tile::a_unit`] and [`Tile::b_unit`].
    const USES_IN_PLACE: usize = 0;

    /// Units of `k` numbers.
    fn units(k: usize) -> usize {
        k.div_ceil(Self::PER)
    }

    /// See [`depth`].
    fn depth(units: usize) -> usize {
        depth(units)
    }

    /// Rows as they are packed.
    fn padded(rows: usize) -> usize {
        rows
    }

    /// Rows of a panel, for a tile of `rows`.
    fn panel(rows: usize) -> usize {
        rows
    }

    /// The first row of tile `index`. Tiles have about the same height, since a short one takes nearly as long as a
    /// tall one.
    fn first_row(rows: usize, index: usize) -> usize {
        index * rows / rows.div_ceil(Self::ROWS)
    }

    /// Packs the rows of `a` that belong to `tiles`.
    ///
    /// # Safety
    /// `to` has room for `padded(rows) * units(k)`, zeroed or not, and nothing else uses the part of `tiles`.
    unsafe fn pack_rows(self, to: *mut u32, a: Operand, tiles: std::ops::Range<usize>);

    /// Packs columns of `b` as strips of equal length, which fill `to`.
    fn pack_columns(self, to: &mut [u32], b: Operand);

    /// Called by a thread before its tiles.
    fn begin(self) {}

    /// Called by a thread after its tiles.
    fn end(self) {}

    /// `c = scale · a b`, or added to it.
    ///
    /// # Safety
    /// All elements that `tile` describes exist, [`Self::begin`] was called, and nothing else uses this part of `c`.
    unsafe fn tile(self, tile: Tile);
}

/// Bytes that a thread allocates at its first product: enough for any block, so that later products do not allocate.
const ROOM: usize = 1 << 20;

/// A packed operand's memory, or none yet.
pub(super) type Packing = Option<Pages>;

/// Room for `units`, aligned to a vector. It grows if it is too short.
pub(super) fn at_least(buffer: &mut Packing, units: usize) -> &mut [u32] {
    let bytes = units.next_multiple_of(LANES) * size_of::<u32>();
    let pages = match buffer.take() {
        Some(pages) if pages.len() >= bytes => pages,
        _ => Pages::new(bytes.max(ROOM)).unwrap_or_else(|_| out_of_memory(bytes)),
    };
    let start = buffer.insert(pages).start();
    // SAFETY: the block is that long, every bit pattern is a number, and nothing else uses it while `buffer` is
    // borrowed.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), bytes / size_of::<u32>()) }
}

/// Ends the process, as a `Vec` that finds no memory does.
fn out_of_memory(bytes: usize) -> ! {
    let layout = Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>());
    handle_alloc_error(layout)
}
