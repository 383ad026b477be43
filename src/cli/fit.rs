//! `flipk profile --fit`.

use super::table::table;
use crate::autograd::Recompute;
use crate::model::Preset;
use crate::profile::largest_batch;

/// Memory of commonly rented cards, in units of 10^9 bytes.
const MEMORY: [usize; 4] = [24, 40, 80, 141];

/// The largest batch by card, for each preset and mask ratio.
pub(super) fn table_of_batches(recompute: Recompute) -> String {
    let mut rows = Vec::new();
    for preset in [Preset::B16, Preset::L16, Preset::L14, Preset::H14] {
        for ratio in [0.0, 0.5, 0.75] {
            let config = preset.config();
            let largest = MEMORY.map(|gigabytes| largest_batch(&config, ratio, gigabytes * 1_000_000_000, recompute));
            let [a, b, c, d] = largest.map(|batch| batch.map_or_else(|| "-".to_owned(), |batch| batch.to_string()));
            rows.push([preset.to_string(), ratio.to_string(), a, b, c, d]);
        }
    }
    table(["model", "mask ratio", "24 GB", "40 GB", "80 GB", "141 GB"], &rows)
}
