//! Products against f64, against their order of sums spelled out, and against themselves on other threads.

use half::bf16;

use super::pack::{PAIRS_DEPTH, depth};
use super::*;
use crate::random::{Purpose, Random};

const ALL: [Operands; 3] = [Operands::F32, Operands::Bf16, Operands::Bf16Tiles];

/// Odd sizes leave partial units, strips, panels, tiles, blocks and pieces along `k`.
/// Some operands are read in place, as rows or across.
const SIZES: [(usize, usize, usize); 19] = [
    (1, 1, 1),
    (7, 5, 3),
    (8, 48, 32),
    (17, 33, 31),
    (100, 200, 64),
    (9, 65, 700),
    (130, 16, 322),
    (130, 17, 768),
    (130, 17, 769),
    (300, 20, 1100),
    (33, 450, 260),
    (27, 40, 513),
    (33, 448, 600),
    (20, 320, 1100),
    (3, 2064, 20),
    (2064, 16, 20),
    (1536, 40, 300),
    (7, 16, 4097),
    (200, 416, 1100),
];

fn draw(len: usize, index: u64) -> Vec<f32> {
    let mut random = Random::new(1, Purpose::Test, 0, index);
    (0..len).map(|_| random.normal()).collect()
}

/// Those of the forward pass and of both gradients, with `gap` numbers between rows as they are stored.
fn layouts((m, n, k): (usize, usize, usize), gap: usize) -> [(Strides, Strides); 3] {
    let [by_m, by_n, by_k] = [m, n, k].map(|len| Strides::row_major(len + gap));
    [(by_k, by_k.transposed()), (by_k, by_n), (by_m.transposed(), by_n)]
}

/// Numbers of an operand, enough for every layout.
fn room(rows: usize, columns: usize, gap: usize) -> usize {
    (rows * (columns + gap)).max(columns * (rows + gap))
}

fn at(operands: Operands, of: &[f32], strides: Strides, row: usize, column: usize) -> f32 {
    let number = of[row * strides.rows + column * strides.columns];
    let rounded = |number: f32| if number.is_subnormal() { 0.0 } else { number };
    if operands == Operands::F32 { number } else { rounded(bf16::from_f32(number).to_f32()) }
}

/// What remains against f64 sums of the rounded operands is the f32 sums' own error.
#[test]
fn products_are_exact_but_for_the_sums() {
    for operands in ALL {
        for sizes in SIZES {
            let (m, n, k) = sizes;
            let (a, b, before) = (draw(m * k, 0), draw(k * n, 1), draw(m * n, 2));
            for ((a_strides, b_strides), accumulate) in layouts(sizes, 0).into_iter().zip([false, true, true]) {
                let run = |parallel| {
                    let (mut c, options) = (before.clone(), GemmOptions { operands, scale: 0.5, accumulate, parallel });
                    gemm(sizes, (&mut c, Strides::row_major(n)), (&a, a_strides), (&b, b_strides), options);
                    c
                };
                let c = run(false);
                assert_eq!(c, run(true), "threads change bits at {sizes:?}");
                for (index, found) in c.into_iter().enumerate() {
                    let (row, column) = (index / n, index % n);
                    let at = |of, strides, row, column| f64::from(at(operands, of, strides, row, column));
                    let terms = || (0..k).map(|i| at(&a, a_strides, row, i) * at(&b, b_strides, i, column));
                    let start = if accumulate { f64::from(before[index]) } else { 0.0 };
                    let expected = start + 0.5 * terms().sum::<f64>();
                    let magnitude = start.abs() + 0.5 * terms().map(f64::abs).sum::<f64>();
                    let error = (f64::from(found) - expected).abs() / magnitude;
                    assert!(error < 1e-6, "{operands:?} {sizes:?}, element ({row}, {column}): {found} for {expected}");
                }
            }
        }
    }
}

/// The sum of a piece, term by term as the orders are defined.
fn piece(operands: Operands, terms: &[(f32, f32)]) -> f32 {
    let chain =
        |sum: f32, terms: &mut dyn Iterator<Item = &(f32, f32)>| terms.fold(sum, |sum, (a, b)| a.mul_add(*b, sum));
    match operands {
        Operands::F32 => chain(0.0, &mut terms.iter()),
        Operands::Bf16 => terms.chunks(2).fold(0.0, |sum, pair| chain(sum, &mut pair.iter().rev())),
        Operands::Bf16Tiles => terms.chunks(32).fold(0.0, |sum, tile| {
            let even = chain(0.0, &mut tile.iter().step_by(2));
            sum + (even + chain(0.0, &mut tile.iter().skip(1).step_by(2)))
        }),
    }
}

/// So the bits are the same whichever instructions multiply: the order is spelled out here without any of them.
#[test]
fn sums_have_one_order() {
    for operands in ALL {
        let kernels: &[fn(Gemm)] = match operands {
            Operands::F32 => &[|gemm| gemm.run(), |gemm| blocked::run(lanes::Plain {}, gemm)],
            Operands::Bf16 => &[|gemm| gemm.run(), |gemm| blocked::run(lanes::Pairs {}, gemm)],
            Operands::Bf16Tiles => &[|gemm| gemm.run(), |gemm| blocked::run(lanes::Tiles {}, gemm)],
        };
        for sizes in SIZES {
            let (m, n, k) = sizes;
            let gap = sizes.0 % 3;
            let (mut a, b, before) = (draw(room(m, k, gap), 0), draw(room(k, n, gap), 1), draw(m * n, 2));
            a[0] = 1e-39;
            let numbers = match operands {
                Operands::F32 => depth(k),
                Operands::Bf16 => 2 * PAIRS_DEPTH,
                Operands::Bf16Tiles => 2 * depth(k.next_multiple_of(32) / 2),
            };
            for ((a_strides, b_strides), accumulate) in layouts(sizes, gap).into_iter().zip([false, true, true]) {
                let expected: Vec<u32> = (0..m * n)
                    .map(|index| {
                        let term =
                            |i| (at(operands, &a, a_strides, index / n, i), at(operands, &b, b_strides, i, index % n));
                        let terms: Vec<_> = (0..k).map(term).collect();
                        let start = if accumulate { before[index] } else { 0.0 };
                        let add = |c, terms| piece(operands, terms).mul_add(0.3, c);
                        terms.chunks(numbers).fold(start, add).to_bits()
                    })
                    .collect();
                for (which, kernel) in kernels.iter().enumerate() {
                    for parallel in [false, true] {
                        let mut c = before.clone();
                        kernel(Gemm {
                            sizes,
                            c: (&mut c, n),
                            a: (&a, a_strides),
                            b: (&b, b_strides),
                            options: GemmOptions { operands, scale: 0.3, accumulate, parallel },
                            aux: &mut [],
                            epilogue: None,
                        });
                        let found: Vec<u32> = c.into_iter().map(f32::to_bits).collect();
                        let differ = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
                        assert!(differ == 0, "{operands:?} {sizes:?}, kernel {which}: {differ} of {} differ", m * n);
                    }
                }
            }
        }
    }
}

/// The kernels read whole registers of a row of `b`. Its last one may be the last of the slice, too.
#[test]
fn only_columns_of_whole_registers_are_read_in_place() {
    let options = GemmOptions { operands: Operands::F32, scale: 1.0, accumulate: false, parallel: false };
    for (n, in_place) in [(16, true), (17, false), (48, true), (40, false)] {
        let (a, b) = (draw(3 * 8, 0), draw(3 * n, 1));
        let (by_m, by_n) = (Strides::row_major(8).transposed(), Strides::row_major(n));
        let (c, aux) = ((&mut vec![0.0; 8 * n][..], n), &mut [][..]);
        let product = Gemm { sizes: (8, n, 3), c, a: (&a, by_m), b: (&b, by_n), options, aux, epilogue: None };
        assert_eq!(blocked::reads_in_place(lanes::Plain {}, product), [true, in_place], "{n} columns");
    }
}

/// Every element is finished once, after the whole product, in its place; what lies between rows stays.
#[test]
fn products_are_finished_piece_by_piece() {
    for (operands, (m, n, k)) in
        ALL.into_iter().flat_map(|operands| [(300, 210, 20), (40, 600, 0)].map(|sizes| (operands, sizes)))
    {
        let stride = n + 3;
        let (a, b) = ((draw(m * k, 0), Strides::row_major(k)), (draw(k * n, 1), Strides::row_major(n)));
        let options = |parallel| GemmOptions { operands, scale: 1.0, accumulate: false, parallel };
        let mut plain = vec![7.0; m * stride];
        gemm((m, n, k), (&mut plain, Strides::row_major(stride)), (&a.0, a.1), (&b.0, b.1), options(false));
        for parallel in [false, true] {
            let (mut c, mut aux) = (vec![7.0; m * stride], vec![0.0; m * stride]);
            let epilogue = |row: usize, column: usize, c: &mut [f32], aux: &mut [f32]| {
                for (index, (c, aux)) in c.iter_mut().zip(aux).enumerate() {
                    *aux += *c + (row * n + column + index) as f32;
                    *c = -*c;
                }
            };
            Gemm {
                sizes: (m, n, k),
                c: (&mut c, stride),
                a: (&a.0, a.1),
                b: (&b.0, b.1),
                options: options(parallel),
                aux: &mut aux,
                epilogue: Some(&epilogue),
            }
            .run();
            for (index, plain) in plain.iter().enumerate() {
                let (row, column) = (index / stride, index % stride);
                let expected = if column < n { (-plain, plain + (row * n + column) as f32) } else { (7.0, 0.0) };
                assert_eq!((c[index], aux[index]), expected, "({row}, {column})");
            }
        }
    }
}

/// Threads write the result through pointers, so one that is too short, or whose rows overlap, is refused.
#[test]
fn results_that_do_not_fit_are_refused() {
    let run = |c_len: usize, stride: usize, aux_len: usize| {
        let (mut c, mut aux) = (vec![0.0; c_len], vec![0.0; aux_len]);
        let numbers = &[1.0; 4][..];
        let options = GemmOptions { operands: Operands::F32, scale: 1.0, accumulate: false, parallel: false };
        let (c, aux) = ((&mut c[..], stride), &mut aux[..]);
        let (a, b) = ((numbers, Strides::row_major(1)), (numbers, Strides::row_major(4)));
        let product = Gemm { sizes: (2, 4, 1), c, a, b, options, aux, epilogue: None };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| product.run())).is_ok()
    };
    for (c, stride, aux, fits) in [
        (8, 4, 8, true),
        (9, 5, 0, true),
        (7, 4, 0, false),
        (8, 3, 0, false),
        (8, 4, 7, false),
        (8, usize::MAX, 0, false),
    ] {
        assert_eq!(run(c, stride, aux), fits, "{c} elements in rows of {stride}, {aux} more");
    }
}
