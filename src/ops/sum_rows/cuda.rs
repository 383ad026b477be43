//! Sums over rows on a GPU: `kernels/sum_rows.cu`.

use super::SumRows;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args, kernels};

/// Rows that the kernel's binary counter holds.
const MOST: usize = (1 << kernels::sum_rows::LEVELS) - 1;

impl<T: ActType> SumRows for Cuda<T> {
    fn sum_rows(&self, into: ViewMut<'_, f32>, rows: View<'_, f32>, count: usize) -> Result<(), DeviceError> {
        debug_assert!(count > 0 && rows.len() == count * into.len() && into.len().is_multiple_of(4));
        if count > MOST {
            return Err(DeviceError::Unsupported { what: format!("a sum over {count} ranks; at most {MOST} at once") });
        }
        let config = LaunchConfig::for_elements(into.len(), 4, 256);
        let len = Arg::size(into.len());
        self.launch("sum_rows", "sum_rows", config, args![into, rows, count, len])
    }
}
