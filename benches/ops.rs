//! Throughput of every op at FLIP's shapes, forwards and backwards, beside the limit that the device's own ceilings set.
//!
//!     cargo bench --bench ops                                    the CPU, at a small batch
//!     FLIPK_BENCH_DEVICE=cuda FLIPK_BENCH_BATCH=1024 cargo bench --bench ops -- attention
//!
//! Criterion keeps its reports under target/criterion; a summary with fractions of the limits goes to the screen and to
//! target/criterion/ops.json, by which two commits can be compared.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use flipk::autograd::{Backward, Init, Layout, ParamId, Parameters, Program, Step, Tape, Work};
use flipk::device::cuda::{Emulated, EmulatorOptions, Gpu};
use flipk::device::{Cpu, Cuda, Real};
use flipk::model::{ModelConfig, Preset};
use flipk::ops::AllOps;
use flipk::ops::assemble::Positions;
use flipk::ops::gather_patches::Shape as Gather;
use flipk::ops::gelu::Gelu;
use flipk::ops::layernorm::Norm;
use flipk::ops::linear::Weights;
use flipk::ops::pool::Pooling;
use flipk::optim::{AdamWConfig, Optimizer};
use flipk::profile::{Ceilings, measure_ceilings};
use flipk::random::{Purpose, Random};
use half::bf16;
use serde::Serialize;

/// One measured op in one direction.
#[derive(Serialize)]
struct Row {
    name: String,
    seconds: f64,
    gigabytes_per_second: f64,
    teraflops: f64,
    bound: &'static str,
    of_limit: f64,
}

struct Bench<'a, D: AllOps> {
    device: Arc<D>,
    ceilings: Ceilings,
    criterion: RefCell<&'a mut Criterion>,
    rows: RefCell<Vec<Row>>,
    batch: usize,
}

fn normals(len: usize, std: f32) -> Vec<f32> {
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    // A period of a prime number of draws, so that large buffers are filled in time and yet look random.
    let period: Vec<f32> = (0..65_521.min(len)).map(|_| std * random.normal()).collect();
    period.iter().copied().cycle().take(len).collect()
}

impl<D: AllOps> Bench<'_, D> {
    /// Times `body`, which the device finishes in its own time.
    fn time(&self, name: &str, work: Work, mut body: impl FnMut()) {
        let throughput = if work.flops > 0 { Throughput::Elements(work.flops) } else { Throughput::Bytes(work.bytes) };
        let last = RefCell::new(0.0);
        let mut criterion = self.criterion.borrow_mut();
        let mut group = criterion.benchmark_group("ops");
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.throughput(throughput).bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let start = self.device.mark().unwrap();
                (0..count).for_each(|_| body());
                let end = self.device.mark().unwrap();
                let seconds = self.device.seconds(&start, &end).unwrap();
                *last.borrow_mut() = seconds / count as f64;
                Duration::from_secs_f64(seconds)
            });
        });
        group.finish();
        let seconds = *last.borrow();
        if seconds > 0.0 {
            let (limit, bound) = self.ceilings.limit(work);
            self.rows.borrow_mut().push(Row {
                name: name.to_owned(),
                seconds,
                gigabytes_per_second: work.bytes as f64 / seconds / 1e9,
                teraflops: work.flops as f64 / seconds / 1e12,
                bound,
                of_limit: limit / seconds,
            });
        }
    }

    /// Times the only op that `record` records, both ways. `params` are shapes; the result's gradient is random.
    fn op(
        &self,
        name: &str,
        inputs: &[&[usize]],
        params: &[&[usize]],
        record: impl FnOnce(&mut Tape<D>, &[flipk::autograd::Var<D::Act>], &[ParamId]) -> flipk::autograd::Var<D::Act>,
        fill: impl FnOnce(&mut Program<D>),
    ) {
        let mut layout = Layout::default();
        let std = 0.05;
        let ids: Vec<ParamId> = (params.iter().enumerate())
            .map(|(index, shape)| layout.add(format!("p{index}"), shape, Init::Normal { std }, true))
            .collect();
        let layout = Arc::new(layout);
        let mut tape = Tape::<D>::new(layout.clone());
        let vars: Vec<_> = inputs.iter().map(|shape| tape.input_var::<D::Act>(shape)).collect();
        vars.iter().for_each(|var| tape.keep(var.slot()));
        let out = record(&mut tape, &vars, &ids);
        let wants_grad = tape.wants_grad(out);
        let mut seed = None;
        let plan = |plan: &mut Backward<D>| seed = wants_grad.then(|| plan.seed(out));
        let mut program = tape.train_from(self.device.clone(), plan).unwrap();
        let mut values = Parameters::new(&*self.device, layout.clone(), &layout.initial_values(1)).unwrap();
        let act = |len, std| normals(len, std).into_iter().map(D::Act::from_f32).collect::<Vec<D::Act>>();
        for (var, shape) in vars.iter().zip(inputs) {
            program.write(var.slot(), &act(shape.iter().product(), 1.0)).unwrap();
        }
        fill(&mut program);
        let steps = program.steps().to_vec();
        let cost = program.op(0).2;
        self.time(&format!("{name} forward"), cost.forward, || program.run_step(0, &mut values).unwrap());
        if let (Some(seed), true) = (seed, steps.contains(&Step::Backward(0))) {
            let len = program.slot_bytes(seed.id()) / size_of::<D::Act>();
            program.write(seed, &act(len, 1.0)).unwrap();
            self.time(&format!("{name} backward"), cost.backward, || program.run_step(1, &mut values).unwrap());
        }
    }

    fn tower(&self, name: &str, tokens: usize, width: usize, heads: usize) {
        let batch = self.batch;
        let rows: &[usize] = &[batch, tokens, width];
        self.op(
            &format!("attention {name}"),
            &[&[batch, tokens, 3 * width]],
            &[],
            |t, x, _| t.attention(x[0], heads, false),
            |_| {},
        );
        let norm = |p: &[ParamId]| Norm { gamma: p[0], beta: p[1], eps: 1e-6 };
        self.op(
            &format!("layernorm {name}"),
            &[rows],
            &[&[width], &[width]],
            |t, x, p| t.layernorm(x[0], norm(p)),
            |_| {},
        );
        self.op(
            &format!("residual layernorm {name}"),
            &[rows, rows],
            &[&[width], &[width]],
            |t, x, p| t.residual_layernorm(x[0], Some(x[1]), norm(p)).1,
            |_| {},
        );
        let linear = |p: &[ParamId]| Weights { weight: p[0], bias: Some(p[1]) };
        self.op(
            &format!("linear qkv {name}"),
            &[rows],
            &[&[3 * width, width], &[3 * width]],
            |t, x, p| t.linear(x[0], linear(p), None),
            |_| {},
        );
        self.op(
            &format!("linear gelu {name}"),
            &[rows],
            &[&[4 * width, width], &[4 * width]],
            |t, x, p| t.linear(x[0], linear(p), Some(Gelu::Tanh)),
            |_| {},
        );
    }

    fn image_side(&self, name: &str, config: &ModelConfig, kept: usize) {
        let shape = Gather { batch: self.batch, side: config.image_size, patch: config.patch_size, kept };
        let width = config.vision.width;
        let mut random = Random::new(2, Purpose::Test, 0, 0);
        let mut ids = Vec::new();
        for _ in 0..self.batch {
            let mut visible = random.permutation(config.patches());
            visible.truncate(kept);
            visible.sort_unstable();
            ids.extend(visible);
        }
        let pixels = vec![127u8; self.batch * config.image_size.pow(2) * 3];
        let (mut image_slot, mut id_slot) = (None, None);
        self.op(
            &format!("gather_patches {name}"),
            &[],
            &[],
            |tape, _, _| {
                let slots = (tape.input(pixels.len()), tape.input(ids.len()));
                (image_slot, id_slot) = (Some(slots.0), Some(slots.1));
                tape.keep(slots.0);
                tape.keep(slots.1);
                tape.gather_patches(slots.0, slots.1, shape, ModelConfig::NORMALISATION)
            },
            |_| {},
        );
        let table = normals((config.patches() + 1) * width, 1.0);
        let slot = RefCell::new(None);
        self.op(
            &format!("assemble {name}"),
            &[&[self.batch, kept, width]],
            &[&[width]],
            |tape, x, p| {
                let ids = tape.input(self.batch * kept);
                tape.keep(ids);
                *slot.borrow_mut() = Some(ids);
                let table = tape.constant(table);
                tape.assemble(x[0], ids, p[0], Positions::Fixed(table))
            },
            |program| slot.borrow().iter().for_each(|slot| program.write(*slot, &ids).unwrap()),
        );
    }

    fn loss(&self, batch: usize, width: usize) {
        let mut layout = Layout::default();
        let scale = layout.add("logit_scale", &[1], Init::Constant(2.66), true);
        let layout = Arc::new(layout);
        let mut tape = Tape::<D>::new(layout.clone());
        let (images, texts) = (tape.input_var::<f32>(&[batch, width]), tape.input_var::<f32>(&[batch, width]));
        tape.keep(images.slot());
        tape.keep(texts.slot());
        tape.contrastive(images, texts, scale);
        let mut program = tape.train(self.device.clone()).unwrap();
        let mut params = Parameters::new(&*self.device, layout.clone(), &layout.initial_values(0)).unwrap();
        let rows = normals(batch * width, 1.0 / (width as f32).sqrt());
        program.write(images.slot(), &rows).unwrap();
        program.write(texts.slot(), &rows).unwrap();
        let cost = program.op(0).2;
        let name = format!("contrastive {batch} x {width}");
        self.time(&format!("{name} forward"), cost.forward, || program.run_step(0, &mut params).unwrap());
        self.time(&format!("{name} backward"), cost.backward, || program.run_step(1, &mut params).unwrap());
    }

    fn optimizer(&self, name: &str, weights: usize) {
        let mut layout = Layout::default();
        layout.add("w", &[weights], Init::Constant(0.5), true);
        let layout = Arc::new(layout);
        let mut params = Parameters::new(&*self.device, layout.clone(), &normals(layout.arena_len(), 1.0)).unwrap();
        let mut optimizer = Optimizer::new(&*self.device, &params, AdamWConfig::default()).unwrap();
        let shadow = if D::SHADOW_WEIGHTS { size_of::<D::Act>() } else { 0 };
        let work = Work { flops: 0, bytes: (layout.arena_len() * (32 + shadow)) as u64 };
        self.time(&format!("adamw {name}"), work, || optimizer.step(&self.device, &mut params, 1e-4).unwrap());
    }

    /// The tail of a tower and the token embedding, which are the same at every ratio.
    fn ends(&self, name: &str, config: &ModelConfig, tokens: usize) {
        let (batch, width) = (self.batch, config.vision.width);
        let mut layout = Layout::default();
        let weight = layout.add("w", &[width, config.embed_dim], Init::Normal { std: 0.05 }, true);
        let layout = Arc::new(layout);
        let mut tape = Tape::<D>::new(layout.clone());
        let x = tape.input_var::<D::Act>(&[batch, tokens, width]);
        tape.keep(x.slot());
        let pooled = tape.pool(x, Pooling::Mean);
        let projected = tape.projection(pooled, weight);
        let z = tape.l2norm(projected);
        tape.keep(z.slot());
        let mut program = tape.inference(self.device.clone()).unwrap();
        let mut params = Parameters::new(&*self.device, layout.clone(), &layout.initial_values(1)).unwrap();
        let act: Vec<D::Act> = normals(batch * tokens * width, 1.0).into_iter().map(D::Act::from_f32).collect();
        program.write(x.slot(), &act).unwrap();
        for index in 0..3 {
            let (op, _, cost) = program.op(index);
            self.time(&format!("{op} {name} forward"), cost.forward, || program.run_step(index, &mut params).unwrap());
        }
        let (width, context, vocab) = (config.text.width, config.context, config.vocab);
        let mut random = Random::new(3, Purpose::Test, 0, 0);
        // A third of a caption's places are words, the others padding.
        let tokens: Vec<i32> = (0..batch * context)
            .map(|place| if place % context > context / 3 { 0 } else { random.below(vocab as u32) as i32 })
            .collect();
        let slot = RefCell::new(None);
        self.op(
            &format!("embedding {name}"),
            &[],
            &[&[vocab, width], &[context, width]],
            |tape, _, p| {
                let tokens = tape.input(batch * context);
                tape.keep(tokens);
                *slot.borrow_mut() = Some(tokens);
                tape.embedding(tokens, batch, p[0], p[1])
            },
            |program| slot.borrow().iter().for_each(|slot| program.write(*slot, &tokens).unwrap()),
        );
    }

    fn all(&self, presets: &[Preset], losses: &[usize]) {
        for &preset in presets {
            let config = preset.config();
            let name = format!("{preset:?}").to_lowercase();
            for ratio in [0.0, 0.5, 0.75] {
                let kept = flipk::data::kept_patches(config.patches(), ratio);
                let label = format!("{name} {ratio}");
                self.image_side(&label, &config, kept);
                self.tower(&label, kept + 1, config.vision.width, config.vision.heads);
            }
            for context in [32, 77] {
                self.tower(&format!("{name} text {context}"), context, config.text.width, config.text.heads);
            }
            self.ends(&name, &config, config.patches() / 2 + 1);
            self.optimizer(&name, flipk::model::Flip::new(&config, true).layout().count());
        }
        losses.iter().for_each(|batch| self.loss(*batch, 512));
    }
}

fn run<D: AllOps>(device: D, batch: usize, presets: &[Preset], losses: &[usize]) {
    let device = Arc::new(device);
    let ceilings = measure_ceilings(&device, false).unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    let bench = Bench {
        device: device.clone(),
        ceilings,
        criterion: RefCell::new(&mut criterion),
        rows: RefCell::default(),
        batch,
    };
    bench.all(presets, losses);
    let rows = bench.rows.into_inner();
    criterion.final_summary();
    let mut table = format!(
        "\n{}, batch {batch}; ceilings {:.2} TFLOP/s, {:.1} GB/s\n{:<44}{:>10}{:>10}{:>10}  bound by  of limit\n",
        device.describe(),
        ceilings.flops_per_second / 1e12,
        ceilings.bytes_per_second / 1e9,
        "",
        "us",
        "GB/s",
        "TFLOP/s"
    );
    for Row { name, seconds, gigabytes_per_second, teraflops, bound, of_limit } in &rows {
        let (us, share) = (1e6 * seconds, 100.0 * of_limit);
        let _ = writeln!(
            table,
            "{name:<44}{us:>10.1}{gigabytes_per_second:>10.1}{teraflops:>10.2}  {bound:<8}{share:>9.0} %"
        );
    }
    print!("{table}");
    let file = std::env::var("FLIPK_BENCH_JSON").unwrap_or_else(|_| "target/criterion/ops.json".to_owned());
    let json = serde_json::json!({"device": device.describe(), "batch": batch, "ceilings": ceilings, "rows": rows});
    if let Err(error) = std::fs::write(&file, format!("{json:#}\n")) {
        eprintln!("{file} was not written: {error}");
    }
}

fn main() {
    let device = std::env::var("FLIPK_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let batch =
        |default: usize| std::env::var("FLIPK_BENCH_BATCH").map_or(default, |batch| batch.parse().expect("a number"));
    let all = [Preset::B16, Preset::L16, Preset::H14];
    match device.as_str() {
        "cpu" => run(Cpu::default(), batch(8), &all, &[4096, 8192]),
        "cuda" => {
            let gpu = Arc::new(Gpu::new(0).unwrap_or_else(|error| panic!("{error}")));
            run(Cuda::<bf16>::new(gpu).unwrap(), batch(1024), &all, &[4096, 16_384, 65_536]);
        }
        "emulator" => {
            // Counting is what the estimates come from.
            let driver = Arc::new(Emulated::new(EmulatorOptions { count: true, order: None }));
            run(Cuda::<bf16>::new(driver).unwrap(), batch(2), &[Preset::B16], &[256]);
        }
        other => panic!("FLIPK_BENCH_DEVICE is `{other}`; known are cpu, cuda and emulator"),
    }
}
