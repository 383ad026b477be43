//! What is known only on the device: how many samples fit `--time`, and the precision. Both are written to
//! `config.toml`, so that repeating and resuming the run need no measurement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Length, Plan, Precision, TrainError, Trainer};
use crate::data::Position;
use crate::model::Flip;
use crate::ops::AllOps;

impl Plan {
    /// Resolves what depends on the device and writes it to `config.toml`. Returns lines to print.
    pub(super) fn fix<D: AllOps>(&mut self, device: &Arc<D>) -> Result<Vec<String>, TrainError> {
        let before = self.settings.options.clone();
        let mut notes = Vec::new();
        let precision = if device.gemm_is_bf16() { Precision::Bf16 } else { Precision::F32 };
        if matches!(before.precision, None | Some(Precision::Auto)) {
            let chosen = format!("--precision auto: {precision:?} on this device").to_lowercase();
            let faster = "; with --precision bf16 it multiplies several times as fast (AMX), but results then differ \
                          between processors";
            notes.push(chosen + if device.has_faster_bf16() { faster } else { "" });
        }
        self.settings.options.precision = Some(precision);
        if let Some(time) = self.settings.time.take() {
            let (steps, seconds) = self.steps_in(device, time)?;
            let batch = self.settings.loader.batch as u64;
            self.settings.length = Length::Samples(steps * batch);
            self.settings.options.samples = Some(steps * batch);
            let asked = self.settings.options.time.take().unwrap_or_default();
            let speed = batch as f64 / seconds;
            notes.push(format!("--time {asked}: {} samples, at {speed:.1} samples/s", steps * batch));
        }
        if self.settings.options != before && self.group.is_root() {
            self.folder.describe(&self.settings, &self.tokenizer)?;
        }
        Ok(notes)
    }

    /// How many steps fit `time`, and the seconds of one. They are measured with a model that is then discarded: the
    /// run's own learning-rate schedule depends on the number of steps, so none can be made before that is known.
    fn steps_in<D: AllOps>(&self, device: &Arc<D>, time: Duration) -> Result<(u64, f64), TrainError> {
        /// Steps until caches are warm and the device has loaded its code.
        const WARM_UP: u64 = 3;
        /// The fewest steps to time.
        const MIN_TIMED: u64 = 2;
        let begun = Instant::now();
        let enough = (time / 20).min(Duration::from_secs(6));
        let settings = &self.settings;
        let flip = Flip::with_loss(&settings.model, settings.loss, settings.decay_cls);
        let values = flip.layout().initial_values(settings.seed);
        let size = settings.step_size();
        let group = self.group.clone();
        let mut trainer = Trainer::in_group(device.clone(), flip, &values, settings.adamw, size, group)?;
        let mut loader = self.loader(Position::start(settings.loader.streams))?;
        // All ranks go by the clock of rank 0.
        let elapsed = || -> Result<Duration, TrainError> {
            let seconds = self.group.all(begun.elapsed().as_secs_f64())?[0];
            Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
        };
        // Whether the loader is slower than the device shows only once the prefetched batches are used up.
        let warm_up = WARM_UP + settings.loader.prefetch as u64;
        // The first timed step, and when it began.
        let mut timed: Option<(u64, Instant)> = None;
        let mut step = 0;
        let (count, start) = loop {
            if timed.is_none() && (step >= warm_up || (step > 0 && elapsed()? >= enough)) {
                trainer.drain()?;
                timed = Some((step, Instant::now()));
            }
            // The learning rate does not affect the time.
            let batch = loader.next_batch()?;
            trainer.submit(&batch, 0.0)?;
            loader.recycle(batch);
            step += 1;
            if let Some((first, start)) = timed.filter(|(first, _)| step - first >= MIN_TIMED)
                && elapsed()? >= enough
            {
                break (step - first, start);
            }
        };
        trainer.drain()?;
        let own = [start.elapsed().as_secs_f64() / count as f64, time.saturating_sub(begun.elapsed()).as_secs_f64()];
        let [seconds, left] = self.group.all(own)?[0];
        Ok((steps_that_fit(left, seconds, settings.loader.batch as u64), seconds))
    }
}

/// Steps of `seconds` each in the time `left`: at least one, and few enough that `config.toml` can hold their samples.
fn steps_that_fit(left: f64, seconds: f64, batch: u64) -> u64 {
    ((left / seconds) as u64).clamp(1, (i64::MAX as u64 / batch.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_of_any_time_can_be_written_down() {
        assert_eq!(steps_that_fit(10.0, 0.25, 256), 40);
        assert_eq!(steps_that_fit(0.0, 0.25, 256), 1);
        for (left, seconds) in [(1e19, 1e-3), (1.0, 0.0)] {
            assert!(i64::try_from(steps_that_fit(left, seconds, 256) * 256).is_ok());
        }
    }
}
