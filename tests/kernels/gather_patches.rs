use flipk::autograd::{ParamId, Tape, Var};
use flipk::device::cuda::EmulatorOptions;
use flipk::device::{Buffer, Cpu, Device, Float};
use flipk::ops::AllOps;
use flipk::ops::gather_patches::{GatherPatches, Normalisation, Shape};
use flipk::random::{Purpose, Random};
use half::bf16;

use crate::harness::{Case, Recorded, check, error, gpu, real};

struct Gather(Shape);

fn bytes(len: usize) -> Vec<u8> {
    let mut random = Random::new(6, Purpose::Test, 0, 0);
    (0..len).map(|_| random.below(256) as u8).collect()
}

/// Some of the patches of each image, in any order.
pub fn visible(batch: usize, patches: usize, kept: usize) -> Vec<u32> {
    let mut random = Random::new(5, Purpose::Test, 0, 0);
    (0..batch).flat_map(|_| random.permutation(patches).into_iter().take(kept).collect::<Vec<_>>()).collect()
}

impl Case for Gather {
    fn inputs(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn params(&self) -> Vec<Vec<usize>> {
        vec![]
    }

    fn record<D: AllOps>(&self, tape: &mut Tape<D>, _: &[Var<D::Act>], _: &[ParamId]) -> Recorded<D::Act> {
        let Shape { batch, side, patch, kept } = self.0;
        let images = bytes(batch * side * side * 3);
        let ids = visible(batch, (side / patch).pow(2), kept);
        let (image_slot, id_slot) = (tape.input(images.len()), tape.input(ids.len()));
        let out = tape.gather_patches(image_slot, id_slot, self.0, Normalisation::IMAGENET);
        Recorded { bytes: vec![(image_slot, images)], indices: vec![(id_slot, ids)], ..Recorded::from(out) }
    }
}

#[test]
fn visible_patches_of_all_sizes() {
    for (batch, side, patch, kept) in
        [(1, 8, 8, 1), (3, 12, 4, 5), (2, 42, 14, 4), (5, 48, 8, 18), (2, 64, 16, 8), (3, 15, 5, 9)]
    {
        check(&format!("{side} px, patch {patch}"), &Gather(Shape { batch, side, patch, kept }));
    }
}

/// A line of a patch of 16 is 48 bytes, so one end of it lies in the middle of a sector: two sectors of 32 bytes each line,
/// and one for the patch's index.
#[test]
fn reads_only_what_is_visible() {
    let shape = Shape { batch: 3, side: 224, patch: 16, kept: 49 };
    let mut counts = check("b16", &Gather(shape));
    if real() {
        return;
    }
    let counts = counts.get_mut("gather_patches_aligned_bf16").unwrap();
    let lines = 3 * 49 * 16;
    let sectors = counts.global_loads.sectors as f64;
    assert!(sectors <= 1.15 * f64::from(2 * lines), "{sectors} sectors read for {lines} lines");
    assert_eq!(counts.global_stores.efficiency(), 1.0);
    assert_eq!(counts.global_stores.bytes, 2 * 48 * lines as u64);
}

fn normalised<D: Device + GatherPatches>(device: &D, patches: &[u8]) -> Vec<f32> {
    let mut from = Buffer::<D, u8>::new(device, patches.len(), "").unwrap();
    let mut to = Buffer::<D, D::Act>::new(device, patches.len(), "").unwrap();
    from.upload(device, patches).unwrap();
    device.normalise_patches(&Normalisation::IMAGENET, from.view(), to.view_mut()).unwrap();
    to.download(device).unwrap().into_iter().map(Float::to_f32).collect()
}

#[test]
fn patches_that_were_gathered_before() {
    for len in [3, 9, 588, 3072] {
        let patches = bytes(len);
        let expected = normalised(&Cpu::default(), &patches);
        let (single, _) = gpu::<f32>(EmulatorOptions::default());
        let (half, _) = gpu::<bf16>(EmulatorOptions::default());
        assert!(error(&normalised(&*single, &patches), &expected) < 1e-6);
        assert!(error(&normalised(&*half, &patches), &expected) <= 2f64.powi(-8));
    }
}
