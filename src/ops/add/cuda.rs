//! Sums of gradients on a GPU: `kernels/add.cu`.

use super::Add;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> Add for Cuda<T> {
    fn add_into(&self, into: ViewMut<'_, T>, from: View<'_, T>) -> Result<(), DeviceError> {
        let config = LaunchConfig::for_elements(into.len(), T::PACK, 256);
        self.launch_typed("add", "add_into", config, args![into, from, Arg::size(into.len())])
    }

    fn copy(&self, into: ViewMut<'_, T>, from: View<'_, T>) -> Result<(), DeviceError> {
        self.driver().copy(into.address(), from.address(), into.len() * size_of::<T>())
    }
}
