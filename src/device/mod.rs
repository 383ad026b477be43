//! Where numbers live and who computes on them.
//!
//! A [`Device`] owns memory and hands out typed views of it. What it can compute is said op by op, by the small traits
//! in [`crate::ops`] (`LayerNorm`, `Attention`, ...), so a new op touches no list here.

mod cpu;

pub use cpu::{Cpu, CpuMemory};

/// A number type that tensors can hold.
pub trait Elem: bytemuck::Pod + Send + Sync + 'static {
    /// As safetensors spells it.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty => $name:literal),*) => { $(impl Elem for $type { const NAME: &'static str = $name; })* };
}
elements!(f32 => "F32", half::bf16 => "BF16", u8 => "U8", i32 => "I32", u32 => "U32");

/// What a device can fail with.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "{device}: out of memory: {asked} bytes were asked for {purpose}; use a smaller --batch or a higher --mask-ratio"
    )]
    OutOfMemory { device: &'static str, purpose: String, asked: usize },
}

/// A place to compute: memory, views of it, and copies in and out.
pub trait Device: Sized + Send + Sync + 'static {
    /// The type of activations, their gradients and matrix operands: f32 on the CPU, bf16 on a GPU.
    type Act: Elem;
    /// One block of raw memory.
    type Memory: Send + Sync;
    /// A typed, shared view into a block.
    type View<'a, T: Elem>: Copy;
    /// A typed, exclusive view into a block.
    type ViewMut<'a, T: Elem>;

    /// Whether matrix operands are a copy of the master weights in another type ([`Device::Act`]).
    const SHADOW_WEIGHTS: bool;

    /// As it is shown to a user: `cpu (2 threads)`.
    fn describe(&self) -> String;

    /// A zeroed block. `purpose` goes into the error if there is no room.
    fn allocate(&self, bytes: usize, purpose: &str) -> Result<Self::Memory, DeviceError>;

    /// Elements `offset_bytes..` of `memory`, `len` of them.
    ///
    /// # Safety
    /// The range lies in the block, is aligned for `T`, and no exclusive view of any of it is alive.
    unsafe fn view<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::View<'_, T>;

    /// As [`Device::view`], exclusively.
    ///
    /// # Safety
    /// The range lies in the block, is aligned for `T`, and no other view of any of it is alive.
    unsafe fn view_mut<T: Elem>(memory: &Self::Memory, offset_bytes: usize, len: usize) -> Self::ViewMut<'_, T>;

    /// Host to device; lengths are equal.
    fn upload<T: Elem>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError>;

    /// Device to host; waits for what computes `from`; lengths are equal.
    fn download<T: Elem>(&self, to: &mut [T], from: Self::View<'_, T>) -> Result<(), DeviceError>;
}
