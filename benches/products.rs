//! Matrix products in the shapes of a training step, compared with the `gemm` crate and, if its library is given, with
//! Intel's MKL.
//!
//!     cargo bench --bench products                     all shapes
//!     cargo bench --bench products -- b16              those of one model
//!     FLIPK_BENCH_MKL=/path/to/libmkl_rt.so.3 cargo bench --bench products      (tools/peers/products does that)
//!
//! They alternate in one process, some milliseconds each, and the order is reversed every time, because the speed of a
//! shared machine changes within seconds. All matrices are in large pages, as a step's tensors are. The table shows
//! GFLOP/s of the median call and, in brackets, of the best one. bf16 includes rounding the
//! operands from f32, as in a step. MKL and `gemm` multiply in f32.

use std::env;
use std::error::Error;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use flipk::data::kept_patches;
use flipk::device::gemm::{GemmOptions, Operands, Strides, gemm};
use flipk::device::{Buffer, Cpu, DeviceError};
use flipk::model::{ModelConfig, Preset, TowerConfig};
use flipk::random::{Purpose, Random};

const TURN: Duration = Duration::from_millis(12);
const TURNS: usize = 12;
/// The threads of other libraries spin for a while after a call; nothing is timed until they stop.
const QUIET: Duration = Duration::from_millis(3);

/// The layouts of a linear layer's three products.
#[derive(Clone, Copy)]
enum Kind {
    /// `y = x Wᵀ`
    Forward,
    /// `dx = dy W`
    Inputs,
    /// `dW = dyᵀ x`
    Weights,
}

use Kind::{Forward, Inputs, Weights};

/// `m`, `n`, `k` of `c[m, n] = a[m, k] b[k, n]`.
type Shape = [usize; 3];

/// Mask ratio of the images.
const MASK_RATIO: f64 = 0.5;

/// Models and the pairs in a batch of each.
fn models() -> [(&'static str, ModelConfig, usize); 3] {
    let small = ModelConfig {
        image_size: 64,
        patch_size: 8,
        vision: TowerConfig::new(6, 192, 3),
        text: TowerConfig::new(6, 192, 3),
        context: 32,
        vocab: 4096,
        embed_dim: 192,
        ..Preset::Tiny.config()
    };
    [("b16", Preset::B16.config(), 16), ("small", small, 64), ("tiny", Preset::Tiny.config(), 256)]
}

/// The products of a step: those of a vision block in all three directions, and of text blocks forwards, of which the
/// last works on one token per text after its attention.
fn shapes() -> Vec<(String, Kind, Shape)> {
    let mut shapes = Vec::new();
    for (model, config, batch) in models() {
        // Outputs and inputs of a block's linear layers: qkv, out, up, down.
        let layers = |width: usize| [[3 * width, width], [width, width], [4 * width, width], [width, 4 * width]];
        let rows = batch * (kept_patches(config.patches(), MASK_RATIO) + 1);
        for [outputs, inputs] in layers(config.vision.width) {
            shapes.push((model.to_owned(), Forward, [rows, outputs, inputs]));
            shapes.push((model.to_owned(), Inputs, [rows, inputs, outputs]));
            shapes.push((model.to_owned(), Weights, [outputs, inputs, rows]));
        }
        for (name, rows, skipped) in [("text", batch * config.context, 0), ("text, last block", batch, 1)] {
            let layers = layers(config.text.width).into_iter().skip(skipped);
            shapes
                .extend(layers.map(|[outputs, inputs]| (format!("{model} {name}"), Forward, [rows, outputs, inputs])));
        }
    }
    shapes
}

/// `cblas_sgemm`
type Sgemm = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    f32,
    *const f32,
    c_int,
    *const f32,
    c_int,
    f32,
    *mut f32,
    c_int,
);

/// A matrix in memory like that of a step's tensors.
struct Operand {
    numbers: Buffer<Cpu, f32>,
    strides: Strides,
}

impl Operand {
    fn new(len: usize, strides: Strides, index: u64) -> Result<Self, DeviceError> {
        let mut random = Random::new(0, Purpose::Test, 0, index);
        let mut numbers = Buffer::new(&Cpu::default(), len, "an operand")?;
        numbers.view_mut().fill_with(|| random.normal());
        Ok(Self { numbers, strides })
    }

    fn numbers(&self) -> &[f32] {
        self.numbers.view()
    }

    /// Transposition and leading dimension as CBLAS wants them.
    fn cblas(&self) -> (c_int, c_int) {
        let Strides { rows, columns } = self.strides;
        if columns == 1 { (111, rows as c_int) } else { (112, columns as c_int) }
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let path = env::var_os("FLIPK_BENCH_MKL").filter(|path| !path.is_empty());
    // SAFETY: loading MKL runs its initialisers, which is what the caller asked for.
    let library = path.map(|path| unsafe { libloading::Library::new(&path) }).transpose();
    let library = library.map_err(|error| format!("cannot load FLIPK_BENCH_MKL: {error}"))?;
    // SAFETY: this is the function's type in MKL's header.
    let mkl = library.as_ref().and_then(|library| unsafe { library.get::<Sgemm>(b"cblas_sgemm\0") }.ok());
    let bf16 = Operands::fast_bf16();
    println!(
        "GFLOP/s of the median call (and the best); of the best: our f32 over the faster of gemm and MKL, by medians\n"
    );
    println!("| model | m x n x k | f32 | bf16 | gemm | MKL | of the best |\n|---|---|---|---|---|---|---|");
    let shapes = shapes().into_iter().filter(|(model, ..)| model.contains(&wanted));
    rayon::scope(|_| -> Result<(), Box<dyn Error + Send + Sync>> {
        for (model, kind, [m, n, k]) in shapes {
            let (a, b) = match kind {
                Forward => (Strides::row_major(k), Strides::row_major(k).transposed()),
                Inputs => (Strides::row_major(k), Strides::row_major(n)),
                Weights => (Strides::row_major(m).transposed(), Strides::row_major(n)),
            };
            let (a, b) = (Operand::new(m * k, a, 0)?, Operand::new(k * n, b, 1)?);
            let mut c = Buffer::<Cpu, f32>::new(&Cpu::default(), m * n, "the result")?;
            let ours = |operands, c: &mut [f32]| {
                let options = GemmOptions { operands, scale: 1.0, accumulate: false, parallel: true };
                gemm(
                    (m, n, k),
                    (c, Strides::row_major(n)),
                    (a.numbers(), a.strides),
                    (b.numbers(), b.strides),
                    options,
                );
            };
            let mut call = |which: usize, c: &mut [f32]| match (which, bf16, &mkl) {
                (0, ..) => ours(Operands::F32, c),
                (1, Some(operands), _) => ours(operands, c),
                (2, ..) => gemm_of((m, n, k), c, &a, &b),
                (3, _, Some(mkl)) => {
                    let [m, n, k] = [m, n, k].map(|size| size as c_int);
                    let ((ta, lda), (tb, ldb)) = (a.cblas(), b.cblas());
                    let [a, b] = [&a, &b].map(|operand| operand.numbers().as_ptr());
                    // SAFETY: sizes and distances are those of these matrices.
                    unsafe { mkl(101, ta, tb, m, n, k, 1.0, a, lda, b, ldb, 0.0, c.as_mut_ptr(), n) }
                }
                _ => {}
            };
            let there = [true, bf16.is_some(), true, mkl.is_some()];
            let times = in_turns(there, c.view_mut(), &mut call);
            let speed = |seconds: f64| 2.0 * (m * n * k) as f64 / seconds / 1e9;
            let shown = times.each_ref().map(|times| match times.as_slice() {
                [] => "-".to_owned(),
                times => format!("{:.0} ({:.0})", speed(times[times.len() / 2]), speed(times[0])),
            });
            let median = |which: usize| times[which].get(times[which].len() / 2).copied().unwrap_or(f64::INFINITY);
            let of_best = median(2).min(median(3)) / median(0);
            println!("| {model} | {m} x {n} x {k} | {} | {of_best:.2} |", shown.join(" | "));
        }
        Ok(())
    })
}

/// The times of each available product, in ascending order.
fn in_turns(there: [bool; 4], c: &mut [f32], call: &mut impl FnMut(usize, &mut [f32])) -> [Vec<f64>; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
    for turn in 0..TURNS {
        for which in 0..there.len() {
            let which = if turn % 2 == 0 { which } else { there.len() - 1 - which };
            if !there[which] {
                continue;
            }
            let begun = Instant::now();
            while begun.elapsed() < QUIET {
                call(which, c);
            }
            let begun = Instant::now();
            while begun.elapsed() < TURN {
                let start = Instant::now();
                call(which, c);
                times[which].push(start.elapsed().as_secs_f64());
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    times
}

fn gemm_of((m, n, k): (usize, usize, usize), c: &mut [f32], a: &Operand, b: &Operand) {
    let [a_strides, b_strides] =
        [a.strides, b.strides].map(|strides| (strides.columns as isize, strides.rows as isize));
    let parallel = gemm::Parallelism::Rayon(0);
    // SAFETY: sizes and distances are those of these matrices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.numbers().as_ptr(),
            a_strides.0,
            a_strides.1,
            b.numbers().as_ptr(),
            b_strides.0,
            b_strides.1,
            1.0,
            1.0,
            false,
            false,
            false,
            parallel,
        );
    }
}
