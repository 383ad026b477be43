//! What the tests of ops and of kernels share: recording an op with random operands.

use std::sync::Arc;

use flipk::autograd::{Activation, Init, Layout, ParamId, Parameters, Program, Slot};
use flipk::device::{Buffer, Device};
use flipk::model::{ImagePool, ModelConfig, Positions, TextPool, TowerConfig};
use flipk::ops::pairwise::{OUTCOME_LEN, Pairwise, Parts};
use flipk::random::{Purpose, Random};

/// `flip`, with the text tower in place of both and the choices of OpenCLIP that add ops.
pub fn with_choices_of_open_clip(flip: ModelConfig) -> ModelConfig {
    let scaled = TowerConfig { layer_scale: Some(0.3), activation: Activation::QuickGelu, ..flip.text };
    ModelConfig {
        vision: scaled,
        text: scaled,
        positions: Positions::Learned,
        ln_pre: true,
        image_pool: ImagePool::Patches,
        ln_after_pool: true,
        causal: true,
        text_pool: TextPool::Argmax,
        ..flip
    }
}

/// What a recorded op returned, and the buffers that the host fills.
pub struct Recorded<V> {
    pub out: V,
    pub bytes: Vec<(Slot<u8>, Vec<u8>)>,
    pub indices: Vec<(Slot<u32>, Vec<u32>)>,
    pub tokens: Vec<(Slot<i32>, Vec<i32>)>,
}

impl<V> From<V> for Recorded<V> {
    fn from(out: V) -> Self {
        Self { out, bytes: vec![], indices: vec![], tokens: vec![] }
    }
}

impl<V> Recorded<V> {
    /// Fills the host's buffers.
    pub fn write<D: Device>(&self, program: &mut Program<D>) {
        self.bytes.iter().for_each(|(slot, values)| program.write(*slot, values).unwrap());
        self.indices.iter().for_each(|(slot, values)| program.write(*slot, values).unwrap());
        self.tokens.iter().for_each(|(slot, values)| program.write(*slot, values).unwrap());
    }
}

/// Parameters of these shapes, normally distributed, with their initial values.
pub fn params(shapes: &[impl AsRef<[usize]>]) -> (Arc<Layout>, Vec<ParamId>, Vec<f32>) {
    let mut layout = Layout::default();
    let normal = Init::Normal { std: 1.0 };
    let add = |(index, shape): (usize, &_)| layout.add(format!("p{index}"), AsRef::as_ref(shape), normal, true);
    let params = shapes.iter().enumerate().map(add).collect();
    let values = layout.initial_values(4);
    (Arc::new(layout), params, values)
}

/// Normally distributed numbers, others for each `item`.
pub fn normals(len: usize, item: u64) -> Vec<f32> {
    let mut random = Random::new(9, Purpose::Test, 0, item);
    (0..len).map(|_| random.normal()).collect()
}

/// The largest number; NaN if one is.
pub fn largest(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |max, error| if error <= max { max } else { error })
}

/// A pairwise loss in `count` parts, with the initial values of `layout`: the outcome, the gradients of images and of
/// texts, and those of the scalars.
pub fn loss_in_parts<D: Pairwise>(
    device: &D,
    layout: &Arc<Layout>,
    scalars: (ParamId, Option<ParamId>),
    operands: [&[f32]; 2],
    [batch, width, count]: [usize; 3],
) -> [Vec<f32>; 4] {
    let (rows, each) = (batch / count, batch / count * width);
    let mut params = Parameters::new(device, layout.clone(), &layout.initial_values(0)).unwrap();
    let mut parts = Parts::new(device, [count, rows, width], scalars).unwrap();
    let mut towers = [0, 1].map(|_| Buffer::<D, f32>::new(device, each, "a test").unwrap());
    for part in 0..count {
        for (tower, operand) in towers.iter_mut().zip(operands) {
            tower.upload(device, &operand[part * each..(part + 1) * each]).unwrap();
        }
        parts.put_images(device, part, towers[0].view()).unwrap();
        parts.put_texts(device, part, towers[1].view()).unwrap();
    }
    (0..count).for_each(|part| parts.forward(device, part, &params).unwrap_or_else(|error| panic!("{error}")));
    let [mut outcome, mut dimages, mut dtexts, mut sums] = [vec![0.0; OUTCOME_LEN], vec![], vec![], vec![0.0; 2]];
    for (index, value) in parts.outcomes_async(device).unwrap()().unwrap().into_iter().enumerate() {
        outcome[index % OUTCOME_LEN] += value;
    }
    for part in 0..count {
        let [images, texts] = &mut towers;
        let views = [images.view_mut(), texts.view_mut()];
        parts.backward(device, part, &mut params, views).unwrap_or_else(|error| panic!("{error}"));
        dimages.extend(images.download(device).unwrap());
        dtexts.extend(texts.download(device).unwrap());
        let grads = params.download_grads(device).unwrap();
        for (sum, id) in sums.iter_mut().zip([Some(scalars.0), scalars.1].into_iter().flatten()) {
            *sum += grads[layout.get(id).offset];
        }
    }
    sums.truncate(1 + usize::from(scalars.1.is_some()));
    [outcome, dimages, dtexts, sums]
}
