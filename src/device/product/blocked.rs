//! How a product is cut into pieces that fit the caches, and shared among threads; what multiplies them is a [`Kernel`].
//!
//! Both operands are packed. One is packed whole for as much of `k` at a time as fits: by each thread for itself where it is
//! small, else by all together. Of the other one each thread packs a block just before it is multiplied. Nothing here decides in what order numbers are added: that
//! is up to [`Kernel::depth`] and the kernel alone.

use std::cell::Cell;
use std::ops::Range;

use super::pack::{Kernel, LANES, Operand, Tile, at_least};
use super::{Finish, How, Product};

/// Columns that are finished before others are begun, in strips: with a block of rows they stay in the second-level cache.
const NEAR: usize = 12;

/// What the operand that is packed whole may take at a time: more would come from memory, again for each block.
const SHARED_BYTES: usize = 8 << 20;

/// What an operand may take at a time that each thread packs whole for itself: half of a second-level cache.
const OWN_BYTES: usize = 1 << 20;
/// Parts of a thread, at most: more level out what one thread is held up.
const PARTS: usize = 4;

/// Strips or tiles that are packed by one thread at a time, at least.
const GRAIN: usize = 4;

thread_local! {
    // Packed operands, kept from call to call, so that a step allocates nothing.
    static SHARED: Cell<Vec<Vector>> = const { Cell::new(Vec::new()) };
    static OWN: Cell<Vec<Vector>> = const { Cell::new(Vec::new()) };
}

/// A line of the caches.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Vector([u32; LANES]);

/// As [`super::product_then`], which has checked the sizes; none of them is zero. The processor has the kernel's instructions.
pub fn product<K: Kernel>(kernel: K, operands: Product<'_>) {
    let Product { sizes: (m, n, k), c: (c, stride), a, b, how, beside, finish } = operands;
    let a = Operand { from: a.0, apart: a.1.rows, along: a.1.columns, count: m, k };
    let b = Operand { from: b.0, apart: b.1.columns, along: b.1.rows, count: n, k };
    let units = K::units(k);
    let threads = if how.parallel { rayon::current_num_threads() } else { 1 };
    let job = Job { kernel, a, b, units, depth: K::depth(units), how, out: Out::new(c, stride, beside), finish };
    // Few rows are packed whole; else that is what becomes of the columns.
    let by_columns = m <= K::BLOCK && m < n;
    let (across, few, many) = if by_columns { (K::padded(m), m, n) } else { (n.next_multiple_of(LANES), n, m) };
    let chunk = (K::UNITS / job.depth).max(1) * job.depth;
    if few * threads <= 2 * many && size_of::<u32>() * across * chunk.min(units) <= OWN_BYTES {
        // Rather packed by each thread for itself than handed from one's cache to the other's.
        let parts = threads * (2 * many / few / threads).clamp(1, PARTS);
        for_parts(how.parallel, 0..parts, 1, &|parts_| {
            for part in parts_ {
                // SAFETY: parts of the result lie apart, and so do the buffers of threads; the processor has the instructions.
                unsafe { job.part(by_columns, across, chunk, part, parts) };
            }
        });
        return;
    }
    let most = (SHARED_BYTES / size_of::<u32>() / across / job.depth).max(1) * job.depth;
    let mut shared = SHARED.take();
    for start in (0..units).step_by(most) {
        let some = start..units.min(start + most);
        let packed = at_least(&mut shared, across * some.len());
        let at = Shared(packed.as_mut_ptr());
        // SAFETY: the packed parts of different tiles, and of different strips, lie apart, as do parts of the result; the buffer
        // has room for all; the processor has the instructions.
        if by_columns {
            for_parts(how.parallel, 0..m.div_ceil(K::ROWS), GRAIN, &|tiles| unsafe {
                job.pack_a(at, 0..m, &some, tiles)
            });
            let groups = n.div_ceil(NEAR * LANES).next_multiple_of(threads).min(n.div_ceil(2 * LANES));
            for_parts(how.parallel, 0..groups, 1, &|groups_| unsafe {
                groups_.for_each(|group| job.columns(at, &some, evenly(n, group, groups, 2 * LANES)));
            });
        } else {
            for_parts(how.parallel, 0..n.div_ceil(LANES), GRAIN, &|strips| unsafe { job.pack_b(at, &some, strips) });
            let blocks = m.div_ceil(K::BLOCK).next_multiple_of(threads).min(m.div_ceil(K::ROWS));
            for_parts(how.parallel, 0..blocks, 1, &|blocks_| unsafe {
                blocks_.for_each(|block| job.rows(at, &some, evenly(m, block, blocks, 1)));
            });
        }
    }
    SHARED.set(shared);
}

/// Calls `body` with parts of `all` of at most `grain` each.
fn for_parts(parallel: bool, all: Range<usize>, grain: usize, body: &(impl Fn(Range<usize>) + Sync)) {
    if !parallel || all.len() <= grain {
        return body(all);
    }
    let half = all.start + all.len() / 2;
    let (low, high) = (all.start..half, half..all.end);
    rayon::join(|| for_parts(true, low, grain, body), || for_parts(true, high, grain, body));
}

/// Part `index` of `parts` of `0..len`, which begins at a multiple of `grain`.
fn evenly(len: usize, index: usize, parts: usize, grain: usize) -> Range<usize> {
    let first = |index: usize| (index * len / parts).next_multiple_of(grain).min(len);
    first(index)..first(index + 1)
}

/// A buffer that threads write different parts of.
#[derive(Clone, Copy)]
struct Shared(*mut u32);
// SAFETY: who writes what is up to the callers of `Job`'s functions.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

/// The result, of which threads write different parts.
#[derive(Clone, Copy)]
struct Out {
    c: *mut f32,
    stride: usize,
    beside: Option<*mut f32>,
}
// SAFETY: as of `Shared`.
unsafe impl Send for Out {}
unsafe impl Sync for Out {}

impl Out {
    fn new(c: &mut [f32], stride: usize, beside: &mut [f32]) -> Self {
        Self { c: c.as_mut_ptr(), stride, beside: (!beside.is_empty()).then_some(beside.as_mut_ptr()) }
    }
}

/// A packed operand: units from `start` on, `units` of them.
#[derive(Clone, Copy)]
struct Packed {
    at: *const u32,
    start: usize,
    units: usize,
}

struct Job<'a, K> {
    kernel: K,
    a: Operand<'a>,
    b: Operand<'a>,
    units: usize,
    depth: usize,
    how: How,
    out: Out,
    finish: Option<&'a Finish<'a>>,
}

impl<K: Kernel> Job<'_, K> {
    /// Units `some` of `rows`' tiles, to a buffer that begins with the first of `rows`.
    unsafe fn pack_a(&self, to: Shared, rows: Range<usize>, some: &Range<usize>, tiles: Range<usize>) {
        let part = self.a.part(rows.start, rows.len(), K::PER * some.start, K::PER * some.len());
        unsafe { self.kernel.pack_rows(to.0, part, tiles) }
    }

    /// Units `some` of `strips`, to a buffer that begins with the first strip of all.
    unsafe fn pack_b(&self, to: Shared, some: &Range<usize>, strips: Range<usize>) {
        let part = self.b.part(strips.start * LANES, strips.len() * LANES, K::PER * some.start, K::PER * some.len());
        let each = some.len() * LANES;
        unsafe {
            let to = std::slice::from_raw_parts_mut(to.0.add(strips.start * each), strips.len() * each);
            self.kernel.pack_columns(to, part);
        }
    }

    /// Part `index` of `parts` of the larger operand times all of the other one, packing both.
    unsafe fn part(&self, by_columns: bool, across: usize, chunk: usize, index: usize, parts: usize) {
        let mut shared = SHARED.take();
        for start in (0..self.units).step_by(chunk) {
            let some = start..self.units.min(start + chunk);
            let at = Shared(at_least(&mut shared, across * some.len()).as_mut_ptr());
            unsafe {
                if by_columns {
                    let rows = self.a.count;
                    self.pack_a(at, 0..rows, &some, 0..rows.div_ceil(K::ROWS));
                    let columns = evenly(self.b.count, index, parts, 2 * LANES);
                    let groups = columns.len().div_ceil(NEAR * LANES);
                    for group in 0..groups {
                        let part = evenly(columns.len(), group, groups, 2 * LANES);
                        self.columns(at, &some, columns.start + part.start..columns.start + part.end);
                    }
                } else {
                    self.pack_b(at, &some, 0..self.b.count.div_ceil(LANES));
                    let rows = evenly(self.a.count, index, parts, 1);
                    let blocks = rows.len().div_ceil(K::BLOCK);
                    for block in 0..blocks {
                        let part = evenly(rows.len(), block, blocks, 1);
                        self.rows(at, &some, rows.start + part.start..rows.start + part.end);
                    }
                }
            }
        }
        SHARED.set(shared);
    }

    /// A block of rows, from strips of `b` that are packed.
    unsafe fn rows(&self, b: Shared, some: &Range<usize>, rows: Range<usize>) {
        let mut own = OWN.take();
        let n = self.b.count;
        let chunk = (K::UNITS / self.depth).max(1) * self.depth;
        for start in some.clone().step_by(chunk) {
            let part = start..some.end.min(start + chunk);
            let at = at_least(&mut own, K::padded(rows.len()) * part.len()).as_mut_ptr();
            unsafe { self.pack_a(Shared(at), rows.clone(), &part, 0..rows.len().div_ceil(K::ROWS)) };
            let a = Packed { at, start, units: part.len() };
            for column in (0..n).step_by(NEAR * LANES) {
                let at = unsafe { b.0.add(column * some.len()) };
                let b = Packed { at, start: some.start, units: some.len() };
                let columns = column..n.min(column + NEAR * LANES);
                unsafe { self.multiply(a, b, &part, rows.clone(), columns) };
            }
        }
        OWN.set(own);
    }

    /// Some columns, from panels of all rows of `a` that are packed.
    unsafe fn columns(&self, a: Shared, some: &Range<usize>, columns: Range<usize>) {
        if columns.is_empty() {
            return;
        }
        let mut own = OWN.take();
        let chunk = (K::UNITS / self.depth).max(1) * self.depth;
        for start in some.clone().step_by(chunk) {
            let part = start..some.end.min(start + chunk);
            let to = at_least(&mut own, columns.len().next_multiple_of(LANES) * part.len());
            let b = self.b.part(columns.start, columns.len(), K::PER * start, K::PER * part.len());
            unsafe { self.kernel.pack_columns(to, b) };
            let b = Packed { at: to.as_ptr(), start, units: part.len() };
            let a = Packed { at: a.0, start: some.start, units: some.len() };
            unsafe { self.multiply(a, b, &part, 0..self.a.count, columns.clone()) };
        }
        OWN.set(own);
    }

    /// Units `some` of `rows` times `columns`; both packed operands begin with the first of those. Then they are finished, if
    /// these units are the last.
    unsafe fn multiply(&self, a: Packed, b: Packed, some: &Range<usize>, rows: Range<usize>, columns: Range<usize>) {
        let Out { c, stride, beside } = self.out;
        // SAFETY: of this function and all that it calls: by the caller.
        unsafe { self.kernel.begin() };
        let tiles = rows.len().div_ceil(K::ROWS);
        for start in some.clone().step_by(self.depth) {
            let units = some.end.min(start + self.depth) - start;
            for column in columns.clone().step_by(K::STRIPS * LANES) {
                let strip = (column - columns.start) * b.units + (start - b.start) * LANES;
                for tile in 0..tiles {
                    let (first, next) = (K::first_row(rows.len(), tile), K::first_row(rows.len(), tile + 1));
                    unsafe {
                        self.kernel.tile(Tile {
                            c: c.add((rows.start + first) * stride + column),
                            stride,
                            rows: next - first,
                            columns: (columns.end - column).min(K::STRIPS * LANES),
                            accumulate: self.how.accumulate || start > 0,
                            scale: self.how.scale,
                            a: a.at.add(first * a.units + (start - a.start) * K::panel(next - first)),
                            a_apart: a.units * K::panel(next - first),
                            b: b.at.add(strip),
                            b_apart: b.units * LANES,
                            units,
                        });
                    }
                }
            }
        }
        unsafe { self.kernel.end() };
        let Some(finish) = self.finish.filter(|_| some.end == self.units) else { return };
        for row in rows {
            let at = row * stride + columns.start;
            // SAFETY: elements of a row that nobody else touches meanwhile.
            let piece = |all: *mut f32| unsafe { std::slice::from_raw_parts_mut(all.add(at), columns.len()) };
            finish(row, columns.start, piece(c), beside.map_or(&mut [], piece));
        }
    }
}
