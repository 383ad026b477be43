//! Timing: single calls, and the ops of a tape one after the other.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use flipk::autograd::{Backward, Init, Layout, ParamId, Parameters, Program, Slot, Step, Tape, Var, Work};
use flipk::device::{Buffer, Device, DeviceError, Elem, Float};
use flipk::ops::AllOps;
use flipk::ops::pool::Shape as Pool;
use flipk::profile::{BenchRow, Ceilings};
use flipk::random::{Purpose, Random};

pub type Done = Result<(), DeviceError>;

/// `len` values that `draw` makes. They repeat after a prime number, so that large buffers are filled in time and yet
/// look random.
pub fn random<T: Copy>(len: usize, draw: impl Fn(&mut Random) -> T) -> Vec<T> {
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    let period: Vec<T> = (0..65_521.min(len)).map(|_| draw(&mut random)).collect();
    let mut values = Vec::with_capacity(len);
    while values.len() < len {
        values.extend_from_slice(&period[..period.len().min(len - values.len())]);
    }
    values
}

pub fn normals<T: Float>(len: usize, std: f32) -> Vec<T> {
    random(len, |random| T::from_f32(std * random.normal()))
}

/// As `8x99x768`.
pub fn dims(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// Drives out of a GPU's cache what the repetition before left there, by reading far more than it holds. Reading, since
/// what is written would still be on its way to memory when the next repetition begins.
pub struct Flush<D: Device> {
    large: Buffer<D, D::Act>,
    sums: Buffer<D, f32>,
}

impl<D: AllOps> Flush<D> {
    const SHAPE: Pool = Pool { batch: 1024, tokens: 128, width: 1024, skip: 0 };

    pub fn new(device: &D) -> Result<Self, DeviceError> {
        let Pool { batch, tokens, width, .. } = Self::SHAPE;
        let large = Buffer::new(device, batch * tokens * width, "a bench")?;
        Ok(Self { large, sums: Buffer::new(device, batch * width, "a bench")? })
    }

    fn run(&mut self, device: &D) -> Done {
        device.pool_forward(&Self::SHAPE, self.large.view(), None, self.sums.view_mut())
    }
}

/// One row to be.
pub struct Case {
    pub name: String,
    pub shape: String,
    pub work: Work,
}

pub struct Bench<D: AllOps> {
    pub device: Arc<D>,
    pub ceilings: Ceilings,
    pub criterion: Criterion,
    pub flush: Option<Flush<D>>,
    pub rows: Vec<BenchRow>,
    pub left_out: Vec<(String, String)>,
}

impl<D: AllOps> Bench<D> {
    /// Times `run`, if criterion's filter lets it; `fill` comes before the first call only.
    ///
    /// # Panics
    /// If the device fails: criterion has no other way out.
    pub fn time<S>(
        &mut self,
        case: Case,
        state: &mut S,
        fill: impl FnOnce(&mut S) -> Done,
        mut run: impl FnMut(&mut S) -> Done,
    ) {
        let Case { name, shape, work } = case;
        let Self { device, criterion, flush, .. } = self;
        let (mut fill, mut times) = (Some(fill), Vec::new());
        let mut repeat = |count: u64| -> Result<f64, DeviceError> {
            if let Some(fill) = fill.take() {
                fill(state)?;
                run(state)?;
            }
            let mut events = Vec::new();
            for _ in 0..count {
                flush.as_mut().map_or(Ok(()), |flush| flush.run(device))?;
                let start = device.record_event()?;
                run(state)?;
                events.push((start, device.record_event()?));
            }
            let spent = events.iter().map(|(start, end)| device.seconds(start, end));
            let spent = spent.collect::<Result<Vec<f64>, _>>()?;
            times.extend_from_slice(&spent);
            Ok(spent.iter().sum())
        };
        let mut group = criterion.benchmark_group("ops");
        group.sample_size(10).nresamples(2000);
        group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
        group.throughput(if work.flops > 0 { Throughput::Elements(work.flops) } else { Throughput::Bytes(work.bytes) });
        group.bench_function(&name, |bencher| {
            bencher.iter_custom(|count| {
                Duration::from_secs_f64(repeat(count).unwrap_or_else(|error| panic!("{name}: {error}")))
            });
        });
        group.finish();
        times.sort_by(f64::total_cmp);
        // No time at all is what an emulator says of a copy.
        if let Some(median) = times.get(times.len() / 2).filter(|median| **median > 0.0) {
            self.rows.push(BenchRow::new(name, shape, work, *median, &self.ceilings));
        }
    }

    /// Notes what does not fit this device; returns other errors.
    pub fn or_left_out(&mut self, name: &str, done: Done) -> Done {
        match done {
            Err(error @ (DeviceError::OutOfMemory { .. } | DeviceError::Unsupported { .. })) => {
                self.left_out.push((name.to_owned(), error.to_string()));
                Ok(())
            }
            done => done,
        }
    }

    /// Times each op that `record` records, forwards and backwards from its result, whose gradient is random (a loss
    /// has none). `params` are shapes.
    pub fn tape<T: Float>(
        &mut self,
        params: &[&[usize]],
        record: impl FnOnce(&mut Recorder<D>, &[ParamId]) -> Option<Var<T>>,
    ) -> Done {
        let mut layout = Layout::default();
        let param = |shape: &&[usize]| layout.add("", shape, Init::Constant(0.0), true);
        let ids: Vec<ParamId> = params.iter().map(param).collect();
        let layout = Arc::new(layout);
        let mut recorder = Recorder { tape: Tape::new(layout.clone()), named: vec![], fills: vec![] };
        let out = record(&mut recorder, &ids);
        let Recorder { tape, named, mut fills } = recorder;
        let title = named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let out = out.filter(|out| tape.wants_grad(*out));
        let mut seed = None;
        let plan = |plan: &mut Backward<D>| seed = out.map(|out| plan.seed(out));
        let made = tape.train_from(self.device.clone(), plan).and_then(|program| {
            let values = normals(layout.arena_len(), 0.05);
            Ok((program, Parameters::new(&*self.device, layout, &values)?))
        });
        let (program, params) = match made {
            Ok(made) => made,
            Err(error) => return self.or_left_out(&title, Err(error)),
        };
        if let Some(seed) = seed {
            let len = program.slot_bytes(seed.id()) / size_of::<T>();
            fills.push(Box::new(move |program| program.write(seed, &normals(len, 1.0))));
        }
        let mut running = Running { program, params, fills, next: 0 };
        for (index, step) in running.program.steps().to_vec().into_iter().enumerate() {
            let ((op, direction), cost) = match step {
                Step::Forward(op) => ((op, "forward"), running.program.op(op).2.forward),
                Step::Backward(op) => ((op, "backward"), running.program.op(op).2.backward),
                Step::Recompute { .. } | Step::Add { .. } | Step::Copy { .. } => continue,
            };
            let (name, shape) = &named[op];
            let case = Case { name: format!("{name} {direction}"), shape: shape.clone(), work: cost };
            let run = |running: &mut Running<D>| running.program.run_step(index, &mut running.params);
            self.time(case, &mut running, |running| running.up_to(index), run);
        }
        Ok(())
    }
}

type Fill<D> = Box<dyn FnOnce(&mut Program<D>) -> Done>;

/// A tape whose inputs are filled when one of its ops is timed.
pub struct Recorder<D: AllOps> {
    pub tape: Tape<D>,
    /// Name and shape of each op.
    named: Vec<(String, String)>,
    fills: Vec<Fill<D>>,
}

impl<D: AllOps> Recorder<D> {
    /// The next op's name and shape.
    pub fn name(&mut self, name: String, shape: &[usize]) {
        self.named.push((name, dims(shape)));
    }

    /// Random numbers.
    pub fn var<T: Float>(&mut self, shape: &[usize], std: f32) -> Var<T> {
        let (var, len) = (self.tape.input_var::<T>(shape), shape.iter().product());
        self.fills.push(Box::new(move |program| program.write(var.slot(), &normals(len, std))));
        var
    }

    /// What `make` makes, `len` of it.
    pub fn input<T: Elem>(&mut self, len: usize, make: impl FnOnce() -> Vec<T> + 'static) -> Slot<T> {
        let slot = self.tape.input(len);
        self.fills.push(Box::new(move |program| program.write(slot, &make())));
        slot
    }
}

struct Running<D: AllOps> {
    program: Program<D>,
    params: Parameters<D>,
    fills: Vec<Fill<D>>,
    /// The first step that has not been run.
    next: usize,
}

impl<D: AllOps> Running<D> {
    /// Makes ready for step `index`: what that reads, the steps before it leave.
    fn up_to(&mut self, index: usize) -> Done {
        self.fills.drain(..).try_for_each(|fill| fill(&mut self.program))?;
        (self.next..index).try_for_each(|step| self.program.run_step(step, &mut self.params))?;
        self.next = index + 1;
        Ok(())
    }
}
