//! Sums over rows on the CPU.

use rayon::prelude::*;

use super::{SumRows, sum_in_place};
use crate::device::{Cpu, DeviceError};

/// The sum over `rows`, each as long as `into`.
pub(crate) fn sum_rows(into: &mut [f32], rows: &[f32]) {
    /// Small enough for a core's first cache with sixteen rows.
    const CHUNK: usize = 1 << 9;
    if into.is_empty() {
        return;
    }
    let (width, count) = (into.len(), rows.len() / into.len());
    into.par_chunks_mut(CHUNK).enumerate().for_each_init(
        || vec![0.0; count * CHUNK],
        |sums, (chunk, into)| {
            let (first, len) = (chunk * CHUNK, into.len());
            for (row, sum) in rows.chunks(width).zip(sums.chunks_mut(CHUNK)) {
                sum[..len].copy_from_slice(&row[first..first + len]);
            }
            sum_in_place(sums, CHUNK);
            into.copy_from_slice(&sums[..len]);
        },
    );
}

impl SumRows for Cpu {
    fn sum_rows(&self, into: &mut [f32], rows: &[f32], count: usize) -> Result<(), DeviceError> {
        debug_assert_eq!(rows.len(), count * into.len());
        sum_rows(into, rows);
        Ok(())
    }
}
