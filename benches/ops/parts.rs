//! What is not an op of a tape: parts of ops, sums of gradients, the optimizer.

use flipk::autograd::{Activation, DECAY_BLOCK, GradMut, Work};
use flipk::device::cuda::{ActType, View, ViewMut};
use flipk::device::{Buffer, Cpu, Cuda, Device, DeviceError, Elem};
use flipk::ops::AllOps;
use flipk::ops::adamw::{HEAD, Hyper, NORM_BLOCK, NUMBERS, Update};
use flipk::ops::bias::{self, cuda::Rows};
use flipk::ops::gelu;

use crate::measure::{Bench, Case, Done, dims, normals};

/// GELU and column sums, which `linear` calls inside of it.
pub trait Parts: AllOps {
    fn gelu_forward(&self, x: Self::View<'_, Self::Act>, y: Self::ViewMut<'_, Self::Act>) -> Done;
    fn gelu_backward(&self, x: Self::View<'_, Self::Act>, d: Self::ViewMut<'_, Self::Act>) -> Done;
    fn sums_scratch(rows: usize, width: usize) -> usize;
    fn column_sums(
        &self,
        shape: [usize; 2],
        x: Self::View<'_, Self::Act>,
        sums: Self::ViewMut<'_, f32>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Done;
}

impl Parts for Cpu {
    fn gelu_forward(&self, x: &[f32], y: &mut [f32]) -> Done {
        gelu::cpu::forward(Activation::GeluTanh, x, y);
        Ok(())
    }

    fn gelu_backward(&self, x: &[f32], d: &mut [f32]) -> Done {
        gelu::cpu::backward(Activation::GeluTanh, x, d);
        Ok(())
    }

    fn sums_scratch(rows: usize, width: usize) -> usize {
        bias::cpu::column_sums_scratch_len(rows, width)
    }

    fn column_sums(&self, [_, width]: [usize; 2], x: &[f32], sums: &mut [f32], scratch: &mut [f32]) -> Done {
        bias::cpu::column_sums(x, width, GradMut { view: sums, accumulate: false }, scratch);
        Ok(())
    }
}

impl<T: ActType> Parts for Cuda<T> {
    fn gelu_forward(&self, x: View<'_, T>, y: ViewMut<'_, T>) -> Done {
        gelu::cuda::forward(self, Activation::GeluTanh, x, &y)
    }

    fn gelu_backward(&self, x: View<'_, T>, d: ViewMut<'_, T>) -> Done {
        gelu::cuda::backward(self, Activation::GeluTanh, x, &d)
    }

    fn sums_scratch(rows: usize, width: usize) -> usize {
        bias::cuda::column_sums_scratch_len(rows, width)
    }

    fn column_sums(
        &self,
        [rows, width]: [usize; 2],
        x: View<'_, T>,
        sums: ViewMut<'_, f32>,
        scratch: ViewMut<'_, f32>,
    ) -> Done {
        let sums = GradMut { view: sums, accumulate: false };
        bias::cuda::column_sums(self, Rows { x, rows, width, stride: width }, sums, &scratch)
    }
}

/// `len` zeros.
fn buffer<D: Device, T: Elem>(device: &D, len: usize) -> Result<Buffer<D, T>, DeviceError> {
    Buffer::new(device, len, "a bench")
}

/// The buffers of element-wise parts.
struct Elements<D: Device> {
    x: Buffer<D, D::Act>,
    y: Buffer<D, D::Act>,
    sums: Buffer<D, f32>,
    scratch: Buffer<D, f32>,
}

/// The buffers of AdamW; most have the length of the arena.
struct Arena<D: Device> {
    values: Buffer<D, f32>,
    shadow: Option<Buffer<D, D::Act>>,
    grads: Buffer<D, f32>,
    m: Buffer<D, f32>,
    v: Buffer<D, f32>,
    decay: Buffer<D, u8>,
    head: Buffer<D, f32>,
    partials: Buffer<D, f32>,
    numbers: Buffer<D, f32>,
}

impl<D: AllOps> Arena<D> {
    fn new(device: &D, len: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            values: buffer(device, len)?,
            shadow: D::SHADOW_WEIGHTS.then(|| buffer(device, len)).transpose()?,
            grads: buffer(device, len)?,
            m: buffer(device, len)?,
            v: buffer(device, len)?,
            decay: buffer(device, len / DECAY_BLOCK)?,
            head: buffer(device, HEAD)?,
            partials: buffer(device, D::PARTIAL * len.div_ceil(NORM_BLOCK))?,
            numbers: buffer(device, NUMBERS)?,
        })
    }

    fn fill(&mut self, device: &D, len: usize, hyper: &Hyper) -> Done {
        let mut values: Vec<f32> = normals(len, 0.05);
        for block in [&mut self.values, &mut self.grads, &mut self.m] {
            block.upload(device, &values)?;
        }
        values.iter_mut().for_each(|value| *value *= *value);
        self.v.upload(device, &values)?;
        self.decay.upload(device, &vec![1; len / DECAY_BLOCK])?;
        self.numbers.upload(device, &hyper.numbers())
    }

    fn step(&mut self, device: &D, hyper: &Hyper) -> Done {
        device.adamw_squares(self.grads.view(), self.partials.view_mut())?;
        device.adamw_scale(hyper, self.partials.view(), None, self.head.view_mut(), self.numbers.view())?;
        let update = Update {
            values: self.values.view_mut(),
            shadow: self.shadow.as_mut().map(Buffer::view_mut),
            grads: self.grads.view(),
            m: self.m.view_mut(),
            v: self.v.view_mut(),
            decay: self.decay.view(),
            head: self.head.view(),
            numbers: self.numbers.view(),
        };
        device.adamw_update(hyper, update)
    }
}

impl<D: Parts> Bench<D> {
    /// Element by element over `[rows, width]`.
    pub fn parts(&mut self, name: &str, rows: usize, width: usize) -> Done {
        let done = self.try_parts(name, rows, width);
        self.or_left_out(&format!("gelu, bias and add {name}"), done)
    }

    fn try_parts(&mut self, name: &str, rows: usize, width: usize) -> Done {
        let (device, len) = (self.device.clone(), rows * width);
        let mut on = Elements::<D> {
            x: buffer(&*device, len)?,
            y: buffer(&*device, len)?,
            sums: buffer(&*device, width)?,
            scratch: buffer(&*device, D::sums_scratch(rows, width))?,
        };
        let mut time = |part: &str, passes: usize, run: &dyn Fn(&mut Elements<D>) -> Done| {
            let (op, direction) = part.split_once(' ').unwrap_or((part, ""));
            let work = Work { flops: 0, bytes: (passes * len * size_of::<D::Act>()) as u64 };
            let case = Case { name: format!("{op} {name} {direction}"), shape: dims(&[rows, width]), work };
            let fill = |on: &mut Elements<D>| {
                on.x.upload(&device, &normals(len, 1.0))?;
                on.y.upload(&device, &normals(len, 1.0))
            };
            self.time(case, &mut on, fill, run);
        };
        time("gelu forward", 2, &|on| device.gelu_forward(on.x.view(), on.y.view_mut()));
        // In place: the gradient soon is 0 or infinite, which takes as long.
        time("gelu backward", 3, &|on| device.gelu_backward(on.x.view(), on.y.view_mut()));
        time("bias backward", 1, &|on| {
            device.column_sums([rows, width], on.x.view(), on.sums.view_mut(), on.scratch.view_mut())
        });
        time("add backward", 3, &|on| device.add_into(on.y.view_mut(), on.x.view()));
        time("copy backward", 2, &|on| device.copy(on.y.view_mut(), on.x.view()));
        Ok(())
    }

    /// The sum of what one of `ranks` receives of the gradients, `len` elements (a multiple of 4) from each.
    pub fn sum_rows(&mut self, name: &str, ranks: usize, len: usize) -> Done {
        let device = self.device.clone();
        let buffers = buffer(&*device, ranks * len).and_then(|rows| Ok((rows, buffer(&*device, len)?)));
        let mut on: (Buffer<D, f32>, Buffer<D, f32>) = match buffers {
            Ok(buffers) => buffers,
            Err(error) => return self.or_left_out(name, Err(error)),
        };
        let work = Work { flops: 0, bytes: ((ranks + 1) * len * size_of::<f32>()) as u64 };
        let case = Case { name: name.to_owned(), shape: dims(&[ranks, len]), work };
        let fill = |on: &mut (Buffer<D, f32>, _)| on.0.upload(&device, &normals(ranks * len, 1.0));
        self.time(case, &mut on, fill, |(rows, sums)| device.sum_rows(sums.view_mut(), rows.view(), ranks));
        Ok(())
    }

    /// One update of an arena of this length.
    pub fn optimizer(&mut self, name: &str, len: usize) -> Done {
        let device = self.device.clone();
        let mut arena = match Arena::new(&*device, len) {
            Ok(arena) => arena,
            Err(error) => return self.or_left_out(name, Err(error)),
        };
        let hyper = Hyper { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.2, step: 1, clip_norm: 0.0 };
        let shadow = if D::SHADOW_WEIGHTS { size_of::<D::Act>() } else { 0 };
        // Weights, gradients and moments read, weights and moments written, the norm's pass over the gradients, and the
        // copy.
        let work = Work { flops: 0, bytes: (len * (8 * size_of::<f32>() + shadow)) as u64 };
        let case = Case { name: name.to_owned(), shape: len.to_string(), work };
        self.time(case, &mut arena, |arena| arena.fill(&device, len, &hyper), |arena| arena.step(&device, &hyper));
        Ok(())
    }
}
