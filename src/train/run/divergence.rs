//! What is said when the loss or a gradient is not finite: which samples may be the reason.

use std::path::Path;

use serde::Serialize;

use super::Run;
use crate::data::Batch;
use crate::group::{Group, GroupError};
use crate::ops::AllOps;
use crate::train::{TrainError, checkpoint};

/// Maximum number of samples that an error names.
const MAX_NAMED: usize = 5;

/// What is not finite if it is not a gradient.
pub(super) const LOSS: &str = "loss";

/// What `diverged.json` says.
#[derive(Serialize)]
struct Divergence<'a> {
    step: u64,
    what: &'a str,
    value: String,
    /// Those of `samples` with an embedding that is not finite; of several ranks, with their numbers.
    not_finite: &'a [String],
    samples: &'a [String],
}

impl<D: AllOps> Run<'_, D> {
    /// The error for `batch`, after which the loss or the gradient's norm was not finite. All ranks call this; the
    /// error of rank 0 names samples of all.
    ///
    /// # Errors
    /// If the device fails, or the group.
    pub(super) fn diverged(
        &mut self,
        what: &'static str,
        value: f64,
        step: u64,
        batch: &Batch,
    ) -> Result<TrainError, TrainError> {
        let group = self.plan.group.clone();
        let own = self.plan.data.names(&batch.samples);
        let name = |row: usize| match group.size() {
            1 => own[row].clone(),
            _ => format!("{} (rank {})", own[row], group.rank()),
        };
        let not_finite: Vec<String> = self.trainer.rows_not_finite(batch)?.into_iter().map(name).collect();
        let [not_finite, samples] = [gather(&*group, &not_finite)?, gather(&*group, &own)?];
        let mut suspects = String::new();
        if group.is_root() {
            let value = value.to_string();
            let said = Divergence { step, what, value, not_finite: &not_finite, samples: &samples };
            let all_in = self.plan.folder.write_json("diverged.json", &said).ok();
            suspects = match not_finite.len() {
                0 => format!("Its samples were {}", first(&samples)),
                count => format!(
                    "The embeddings of {count} of its {} samples are not finite: {}",
                    samples.len(),
                    first(&not_finite)
                ),
            };
            if let Some(path) = all_in {
                suspects += &format!(" (all are in {})", path.display());
            }
        }
        // The end of any rank ends rank 0, which may still be writing.
        group.meet()?;
        // A loss is that of the weights before the step.
        let is_good = |path: &Path| what != LOSS || checkpoint::step_of(path).is_none_or(|saved| saved + 1 < step);
        let good = |path: &Path| format!("The last good checkpoint is {}", path.display());
        let last = match &self.saved {
            Some(path) if is_good(path) => good(path),
            Some(path) => {
                let before = checkpoint::list(&self.plan.folder.checkpoints()).into_iter().rfind(|path| is_good(path));
                let before = before.map_or_else(|| "There is none before it".to_owned(), |path| good(&path));
                format!("The weights in {} already have this loss. {before}", path.display())
            }
            None => "There is no checkpoint yet".to_owned(),
        };
        Ok(TrainError::Diverged { what, step, value, suspects, last })
    }
}

/// The names of all ranks, on rank 0.
fn gather(group: &dyn Group, own: &[String]) -> Result<Vec<String>, GroupError> {
    let all = group.gather_text(&own.join("\0"))?;
    Ok(all.iter().flat_map(|names| names.split('\0')).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The first few names.
fn first(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let named = names[..names.len() - more].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}
