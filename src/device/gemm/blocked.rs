//! Cuts a product into blocks that fit the caches and divides them among threads; a [`Kernel`] multiplies them.
//!
//! The smaller operand is packed whole, for as much of `k` at a time as fits: by each thread for itself if it is small
//! enough, otherwise by all threads together. Of the larger one, each thread packs a block just before multiplying it.
//! Short rows of `a`, and operands that are contiguous across `k` and used few times, are read where they are. Nothing
//! here affects the order of additions: only [`Kernel::depth`] and the kernel do.

use std::cell::Cell;
use std::ops::Range;

use super::pack::{Kernel, LANES, Operand, Packing, Tile, at_least};
use super::{Epilogue, Gemm, GemmOptions};

/// Columns whose results stay in the L2 cache, together with a block of rows, until the epilogue.
const NEAR: usize = 12 * LANES;

/// The largest part of an operand that threads pack together. A larger part would be read from memory again for each
/// block.
const SHARED_BYTES: usize = 8 << 20;

/// The largest part of an operand that each thread packs for itself: half of an L2 cache.
const OWN_BYTES: usize = 1 << 20;

/// Units of `a` that are a multiple of so many numbers apart (2 KiB) fall into two sets of an L1 cache and evict each
/// other: such an `a` is packed. Of `b`, a tile reads two lines of each unit, and measured no slower.
const SAME_SETS: usize = 512;

/// The most parts per thread: with several, the others take over when one thread is delayed.
const PARTS: usize = 4;

/// Strips or tiles that a thread packs at a time.
const GRAIN: usize = 4;

thread_local! {
    // Packed operands, kept from call to call, so that a step does not allocate.
    static WHOLE: Cell<Packing> = const { Cell::new(None) };
    static BLOCK: Cell<Packing> = const { Cell::new(None) };
}

/// As [`Gemm::run`], which has checked that the operands fit the sizes and that no size is zero.
pub(super) fn run<K: Kernel>(kernel: K, operands: Gemm<'_>) {
    let options = operands.options;
    let threads = if options.parallel { rayon::current_num_threads() } else { 1 };
    let job = Job::new(kernel, operands);
    let Job { units, depth, chunk, .. } = job;
    let (few, many, block, grain) = job.sides();
    let bytes = |units: usize| job.padded() * units * size_of::<u32>();
    if few * threads <= 2 * many && bytes(chunk.min(units)) <= OWN_BYTES {
        // Each part packs the whole operand again: that must not take long beside packing the parts themselves.
        let parts = threads * (many / (2 * few) / threads).clamp(1, PARTS);
        for_each(options.parallel, parts, &|index| {
            let part = evenly(0..many, index, parts, grain);
            let blocks = part.len().div_ceil(block);
            with(&WHOLE, |whole| {
                for some in chunks(0..units, chunk) {
                    // SAFETY: the buffer has room for all units `some` and is lent to this thread alone; the parts are
                    // disjoint ranges of the result's rows (columns), which fits the sizes and whose rows do not
                    // overlap.
                    unsafe {
                        let whole = job.whole_in_place(&some).unwrap_or_else(|| {
                            let whole = Buffer::new(whole, job.padded() * some.len());
                            job.pack_whole(whole, &some, 0..job.pieces());
                            whole.packed(&some)
                        });
                        (0..blocks)
                            .for_each(|index| job.block(whole, &some, evenly(part.clone(), index, blocks, grain)));
                    }
                }
            });
        });
        return;
    }
    let blocks = many.div_ceil(block).next_multiple_of(threads);
    let max_units = (SHARED_BYTES / bytes(depth)).max(1) * depth;
    with(&WHOLE, |whole| {
        for some in chunks(0..units, max_units) {
            let whole = job.whole_in_place(&some).unwrap_or_else(|| {
                let whole = Buffer::new(whole, job.padded() * some.len());
                // SAFETY: the buffer has room for all units `some`. The groups are disjoint, each tile or strip has its
                // own part of the buffer, and no thread reads it before `for_each` has returned.
                for_each(options.parallel, job.pieces().div_ceil(GRAIN), &|group| unsafe {
                    job.pack_whole(whole, &some, GRAIN * group..job.pieces().min(GRAIN * (group + 1)));
                });
                whole.packed(&some)
            });
            // SAFETY: the operand is ready and no thread writes it; the blocks are disjoint ranges of the result's
            // rows (columns).
            for_each(options.parallel, blocks, &|index| unsafe {
                job.block(whole, &some, evenly(0..many, index, blocks, grain));
            });
        }
    });
}

/// Calls `body` for each index below `count`, on all threads if `parallel`.
fn for_each(parallel: bool, count: usize, body: &(impl Fn(usize) + Sync)) {
    fn halve(range: Range<usize>, body: &(impl Fn(usize) + Sync)) {
        if range.len() <= 1 {
            return range.for_each(body);
        }
        let half = range.start + range.len() / 2;
        let (low, high) = (range.start..half, half..range.end);
        rayon::join(|| halve(low, body), || halve(high, body));
    }
    if parallel { halve(0..count, body) } else { (0..count).for_each(body) }
}

/// Calls `body` with a buffer that this thread keeps.
fn with(buffer: &'static std::thread::LocalKey<Cell<Packing>>, body: impl FnOnce(&mut Packing)) {
    // A thread that waits for others may run another product in the meantime, which then finds an empty buffer.
    let mut lent = buffer.take();
    body(&mut lent);
    buffer.set(lent);
}

/// `range` in pieces of at most `len`.
fn chunks(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(len).map(move |start| start..end.min(start + len))
}

/// Part `index` of `parts` nearly equal ones of `range`, each starting at a multiple of `grain` from the range's start.
fn evenly(range: Range<usize>, index: usize, parts: usize, grain: usize) -> Range<usize> {
    let len = range.len();
    let first = |index: usize| range.start + (index * len / parts).next_multiple_of(grain).min(len);
    first(index)..first(index + 1)
}

/// Memory for a packed operand that threads share.
#[derive(Clone, Copy)]
struct Buffer(*mut u32);
// SAFETY: `run` gives each thread parts that no other thread reads or writes at the same time, and keeps the buffer
// until all threads are done.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn new(buffer: &mut Packing, units: usize) -> Self {
        Self(at_least(buffer, units).as_mut_ptr())
    }

    /// Units `some` of an operand, which were packed into this buffer.
    fn packed(self, some: &Range<usize>) -> Source {
        Source { at: self.0, start: some.start, apart: some.len(), along: None }
    }
}

/// The result, whose blocks are written by different threads.
#[derive(Clone, Copy)]
struct Out {
    c: *mut f32,
    stride: usize,
    aux: Option<*mut f32>,
}
// SAFETY: `run` gives each thread elements that no other thread uses, and borrows the result until all threads are
// done.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// An operand as the kernel reads it, from unit `start` on.
#[derive(Clone, Copy)]
struct Source {
    at: *const u32,
    start: usize,
    /// The distance between rows or columns: between those that start a panel or strip, if they are packed.
    apart: usize,
    /// The distance between units of an operand that is read where it is; `None` if it is packed.
    along: Option<usize>,
}
// SAFETY: as of `Buffer`; an operand that is read where it is outlives the product.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// Units `some` of the rows or columns of `of` from `first` on, where they are.
fn in_place(of: Operand, first: usize, some: &Range<usize>) -> Source {
    let Operand { from, apart, along, .. } = of;
    let at = from[first * apart + some.start * along..].as_ptr().cast();
    Source { at, start: some.start, apart, along: Some(along) }
}

/// A product. Its unsafe functions require that buffers are as long as what is packed into them, that the result fits
/// the sizes and its rows do not overlap, and that no other thread uses what they write.
struct Job<'a, K> {
    kernel: K,
    a: Operand<'a>,
    b: Operand<'a>,
    /// Whether `a` is packed whole and `b` block by block, or the reverse, if they are packed at all. Up to one and a
    /// half blocks of rows are packed whole: for two short blocks, all of `b` would be read twice.
    rows_whole: bool,
    units: usize,
    depth: usize,
    /// Units of a block that are packed at a time, a multiple of `depth`.
    chunk: usize,
    options: GemmOptions,
    out: Out,
    epilogue: Option<&'a Epilogue<'a>>,
}

impl<'a, K: Kernel> Job<'a, K> {
    fn new(kernel: K, operands: Gemm<'a>) -> Self {
        let Gemm { sizes: (m, n, k), c: (c, stride), a, b, options, aux, epilogue } = operands;
        let units = K::units(k);
        let depth = K::depth(units);
        let aux = (!aux.is_empty()).then_some(aux.as_mut_ptr());
        Self {
            kernel,
            a: Operand { from: a.0, apart: a.1.rows, along: a.1.columns, count: m, k },
            b: Operand { from: b.0, apart: b.1.columns, along: b.1.rows, count: n, k },
            rows_whole: m <= K::BLOCK + K::BLOCK / 2 && m < n,
            units,
            depth,
            chunk: (K::UNITS / depth).max(1) * depth,
            options,
            out: Out { c: c.as_mut_ptr(), stride, aux },
            epilogue,
        }
    }

    /// Rows or columns of the operand that is packed whole, and of the other one; how many of the latter are a block,
    /// and the multiple at which a block may start.
    fn sides(&self) -> (usize, usize, usize, usize) {
        let (m, n) = (self.a.count, self.b.count);
        if self.rows_whole { (m, n, NEAR, K::STRIPS * LANES) } else { (n, m, K::BLOCK, 1) }
    }

    /// Rows or columns of the operand that is packed whole, with padding.
    fn padded(&self) -> usize {
        if self.rows_whole { K::padded(self.a.count) } else { self.b.count.next_multiple_of(LANES) }
    }

    /// Its tiles or strips.
    fn pieces(&self) -> usize {
        if self.rows_whole { self.a.count.div_ceil(K::ROWS) } else { self.b.count.div_ceil(LANES) }
    }

    /// Packs units `some` of `pieces` into their places in `to`.
    unsafe fn pack_whole(&self, to: Buffer, some: &Range<usize>, pieces: Range<usize>) {
        // SAFETY: by the caller the buffer has room for all panels or strips, and those of `pieces` are for this call
        // alone.
        unsafe {
            if self.rows_whole {
                let a = self.a.part(0, self.a.count, K::PER * some.start, K::PER * some.len());
                self.kernel.pack_rows(to.0, a, pieces);
            } else {
                let to = Buffer(to.0.add(pieces.start * some.len() * LANES));
                self.pack_columns(to, some, pieces.start * LANES..pieces.end * LANES);
            }
        }
    }

    /// Packs units `some` of `columns` as strips, which start at `to`.
    unsafe fn pack_columns(&self, to: Buffer, some: &Range<usize>, columns: Range<usize>) {
        let b = self.b.part(columns.start, columns.len(), K::PER * some.start, K::PER * some.len());
        // SAFETY: by the caller there is room for these strips, and they are for this call alone.
        let to = unsafe { std::slice::from_raw_parts_mut(to.0, columns.len().next_multiple_of(LANES) * some.len()) };
        self.kernel.pack_columns(to, b);
    }

    /// Units `some` of the operand that is packed whole, if the kernel reads it where it is.
    fn whole_in_place(&self, some: &Range<usize>) -> Option<Source> {
        if self.rows_whole { self.a_in_place(0, some) } else { self.b_in_place(0, some) }
    }

    /// Units `some` of the rows of `a` from `first` on, if the kernel reads them where they are.
    fn a_in_place(&self, first: usize, some: &Range<usize>) -> Option<Source> {
        let Operand { apart, along, k, .. } = self.a;
        let rows = along == 1 && k <= K::ROWS_IN_PLACE;
        let across = apart == 1 && !along.is_multiple_of(SAME_SETS) && self.b.count <= K::USES_IN_PLACE;
        (rows || across).then(|| in_place(self.a, first, some))
    }

    /// Units `some` of the columns of `b` from `first` on, if the kernel reads them where they are.
    fn b_in_place(&self, first: usize, some: &Range<usize>) -> Option<Source> {
        let Operand { apart, count, .. } = self.b;
        let across = apart == 1 && count.is_multiple_of(LANES) && self.a.count <= K::USES_IN_PLACE;
        across.then(|| in_place(self.b, first, some))
    }

    /// Packs units `some` of the rows or columns `range`, unless the kernel reads them where they are, and multiplies
    /// them by the other operand.
    unsafe fn block(&self, whole: Source, some: &Range<usize>, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        with(&BLOCK, |block| {
            for part in chunks(some.clone(), self.chunk) {
                // SAFETY: `block` is this thread's own and was made long enough, or the operand itself has these rows
                // or columns; `whole` is ready and `range` is for this call alone, by the caller.
                unsafe {
                    if self.rows_whole {
                        let b = self.b_in_place(range.start, &part).unwrap_or_else(|| {
                            let to = Buffer::new(block, range.len().next_multiple_of(LANES) * part.len());
                            self.pack_columns(to, &part, range.clone());
                            to.packed(&part)
                        });
                        self.multiply(whole, b, &part, 0..self.a.count, range.clone());
                        continue;
                    }
                    let a = self.a_in_place(range.start, &part).unwrap_or_else(|| {
                        let to = Buffer::new(block, K::padded(range.len()) * part.len());
                        let (start, k) = (K::PER * part.start, K::PER * part.len());
                        let a = self.a.part(range.start, range.len(), start, k);
                        self.kernel.pack_rows(to.0, a, 0..range.len().div_ceil(K::ROWS));
                        to.packed(&part)
                    });
                    for columns in chunks(0..self.b.count, NEAR) {
                        let b = Source { at: whole.at.add(columns.start * whole.apart), ..whole };
                        self.multiply(a, b, &part, range.clone(), columns);
                    }
                }
            }
        });
    }

    /// Multiplies units `some` of `rows` by those of `columns`, with which both operands start. After the last
    /// units, it calls the epilogue.
    unsafe fn multiply(&self, a: Source, b: Source, some: &Range<usize>, rows: Range<usize>, columns: Range<usize>) {
        let Out { c, stride, aux } = self.out;
        self.kernel.begin();
        for piece in chunks(some.clone(), self.depth) {
            for strips in chunks(columns.clone(), K::STRIPS * LANES) {
                // The strips' distance to the first of `columns`, in columns.
                let strip = strips.start - columns.start;
                for tile in 0..rows.len().div_ceil(K::ROWS) {
                    let (first, next) = (K::first_row(rows.len(), tile), K::first_row(rows.len(), tile + 1));
                    let panel = K::panel(next - first);
                    let (a_unit, b_unit) = (a.along.unwrap_or(panel), b.along.unwrap_or(LANES));
                    // SAFETY: by the caller both operands hold these units of `rows` and `columns`, padded to whole
                    // panels and strips if they are packed, and no other thread uses these elements of the result.
                    // `begin` was called above.
                    unsafe {
                        self.kernel.tile(Tile {
                            c: c.add((rows.start + first) * stride + strips.start),
                            stride,
                            rows: next - first,
                            columns: strips.len(),
                            accumulate: self.options.accumulate || piece.start > 0,
                            scale: self.options.scale,
                            a: a.at.add(first * a.apart + (piece.start - a.start) * a_unit),
                            a_apart: a.apart * panel,
                            a_row: if a.along.is_some() { a.apart } else { 1 },
                            a_unit,
                            b: b.at.add(strip * b.apart + (piece.start - b.start) * b_unit),
                            b_apart: b.apart * LANES,
                            b_unit,
                            units: piece.len(),
                        });
                    }
                }
            }
        }
        self.kernel.end();
        let Some(epilogue) = self.epilogue.filter(|_| some.end == self.units) else { return };
        for row in rows {
            let at = row * stride + columns.start;
            // SAFETY: the result and `aux` have this row and these columns, and by the caller no other thread uses
            // them.
            let piece = |all: *mut f32| unsafe { std::slice::from_raw_parts_mut(all.add(at), columns.len()) };
            epilogue(row, columns.start, piece(c), aux.map_or(&mut [], piece));
        }
    }
}

/// Whether `a` and `b` are read where they are.
#[cfg(test)]
pub(super) fn reads_in_place<K: Kernel>(kernel: K, operands: Gemm<'_>) -> [bool; 2] {
    let job = Job::new(kernel, operands);
    [job.a_in_place(0, &(0..1)), job.b_in_place(0, &(0..1))].map(|source| source.is_some())
}
