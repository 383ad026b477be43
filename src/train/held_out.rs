//! The data for evaluating a run.

use std::sync::Arc;

use super::{Settings, TrainError};
use crate::data::image::Decoding;
use crate::data::{CaptionKeys, ClassNumbers, Dataset};
use crate::eval::{self, ClassNames, Classes, Templates};

/// Held-out data with everything that zero-shot evaluation needs. It is opened before the first step, so that a mistake
/// in it wastes no training.
pub(super) struct HeldOut {
    pub dataset: Arc<Dataset>,
    pub classes: Classes,
    pub templates: Templates,
    /// Lines to print about the data and its classes.
    pub notes: Vec<String>,
}

impl HeldOut {
    /// `None` if there is no data to evaluate on.
    ///
    /// # Errors
    /// Data or lists that cannot be read, or a sample whose class is not in the list.
    pub(super) fn open(settings: &Settings) -> Result<Option<Self>, TrainError> {
        if settings.eval_data.is_empty() {
            return Ok(None);
        }
        let names = settings.classes.as_deref().map(ClassNames::from_file).transpose()?;
        let templates = settings.templates.as_deref().map(Templates::from_file).transpose()?.unwrap_or_default();
        let class_numbers = if names.is_some() { ClassNumbers::Prefer } else { ClassNumbers::Accept };
        let keys = CaptionKeys { class_numbers, filter: None, ..settings.captions.clone() };
        let (dataset, note) = eval::open(&settings.eval_data, &keys)?;
        let classes = Classes::from_dataset(&dataset, names.as_ref(), settings.labels)?;
        let notes = note.into_iter().chain(classes.notes().iter().cloned()).collect();
        let decoding = Decoding { scale_to: None, ..settings.decoding };
        Ok(Some(Self { dataset: Arc::new(dataset.with_decoding(decoding)), classes, templates, notes }))
    }
}
