//! What a run says: at its start, and in metrics.

use std::fs;
use std::time::Duration;

use tracing::{info, warn};

use super::Run;
use crate::data::Variety;
use crate::eval::ZeroShot;
use crate::log;
use crate::ops::AllOps;
use crate::train::metrics::{Metrics, MetricsLog};
use crate::train::ranks::{GroupStats, RankStats};
use crate::train::stragglers::Spread;
use crate::train::{Progress, Settings, TrainError, advice, curve, introduction};
use crate::units::Bytes;

impl<D: AllOps> Run<'_, D> {
    pub(super) fn log_header(&self) {
        let Settings { model, loader, .. } = &self.plan.settings;
        info!(
            "{}; {:.1} M parameters; {} px, {} of {} patches visible; batch {}; {} steps from {}; activations {}; {}",
            self.plan.data.describe(),
            self.trainer.params().layout().count() as f64 / 1e6,
            model.image_size,
            loader.kept(),
            loader.patches(),
            loader.batch,
            self.total,
            self.state.step,
            Bytes(self.trainer.activation_bytes()),
            self.trainer.device().describe(),
        );
        if self.plan.group.size() > 1 {
            info!("{} ranks, connected by {}", self.plan.group.size(), self.plan.group.describe());
        }
        log::lines(self.trainer.cost_of_micro_batches());
        let captions = introduction::captions(self.plan.data.looked_at(), &self.plan.tokenizer, loader);
        let held_out = self.plan.held_out.iter().flat_map(|held_out| &held_out.notes);
        let variety = Variety::from_dataset(self.plan.data.looked_at());
        let warnings = advice::warnings(&advice::Run {
            samples: self.plan.data.samples(),
            captions: &variety,
            batch: loader.batch,
            total: self.total,
            warmup: self.schedule.warmup,
        });
        log::lines(captions.iter().chain(held_out).chain(&warnings));
        info!("run folder: {}", self.plan.folder.path().display());
        let held_out = self.plan.held_out.iter().flat_map(|held_out| held_out.dataset.warnings());
        log::lines(self.plan.data.warnings().iter().chain(&self.plan.epoch.notes).chain(held_out));
    }

    /// Writes a line of metrics and starts the next window.
    pub(super) fn report(&mut self, evaluated: Option<ZeroShot>) -> Result<(), TrainError> {
        self.drain()?;
        let window = std::mem::take(&mut self.window);
        let (steps, seconds) = (window.steps.max(1) as f64, window.time.as_secs_f64().max(1e-9));
        let from = self.plan.settings.data.first().map_or("", String::as_str);
        let (images, warning) = self.watch.end(&window, &self.loader, from);
        let own = RankStats {
            waited: window.waited.as_secs_f64(),
            busy: self.trainer.take_backward_seconds().unwrap_or(window.busy.as_secs_f64()),
            computed: window.computed.as_secs_f64(),
            images,
            passes: self.loader.passes(),
        };
        let stats = GroupStats::gather(&*self.plan.group, own)?;
        let busy = stats.each(|share| share.busy);
        let compute = Spread::of(&busy);
        let data = Spread::of(&stats.each(|share| share.waited));
        let metrics = Metrics {
            step: self.state.step,
            samples: self.state.samples,
            epoch: match self.plan.settings.epoch_samples {
                Some(epoch) => self.state.samples as f64 / epoch as f64,
                // To a billionth: how many ranks add up their parts does not show.
                None => (stats.mean(|share| share.passes) * 1e9).round() / 1e9,
            },
            loss: window.loss / steps,
            accuracy: window.accuracy / steps,
            learning_rate: self.schedule.at(self.state.step.saturating_sub(1)),
            grad_norm: window.grad_norm,
            logit_scale: self.trainer.logit_scale()?,
            samples_per_second: steps * self.plan.settings.loader.batch as f64 / seconds,
            gflops: steps * self.trainer.step_flops() as f64 / seconds / 1e9,
            data_wait: stats.mean(|share| share.waited) / seconds,
            images_per_second: stats.sum(|share| share.images) as f64 / seconds,
            cores_busy: stats.sum(|share| share.computed) / seconds,
            seconds: self.seconds(),
            slowest_rank: compute.map(|of| of.slowest),
            slowest_compute: compute.map(|of| of.longest / steps),
            median_compute: compute.map(|of| of.median / steps),
            slowest_data_rank: data.map(|of| of.slowest),
            slowest_data_wait: data.map(|of| of.longest / seconds),
            zero_shot_top1: evaluated.map(|found| found.top1),
            zero_shot_top5: evaluated.map(|found| found.top5),
        };
        self.watch_collapse(&metrics, window.steps)?;
        self.latest = metrics;
        let left = self.total.saturating_sub(metrics.step) as f64 * self.stepping.as_secs_f64();
        let left = Duration::try_from_secs_f64(left / self.steps.max(1) as f64).unwrap_or_default();
        if let Some(log) = &mut self.log {
            let skipped = self.loader.skipped().values().sum();
            (self.report)(Progress::Metrics { metrics: &metrics, total: self.total, left, skipped });
            let written = log.write(&metrics);
            self.warn_once(written);
        }
        log::lines(warning);
        log::lines(self.stragglers.end(window.steps, &busy));
        Ok(())
    }

    /// Warns once if the model has collapsed. `steps`: steps since the last report; all of them must be past the
    /// warm-up.
    fn watch_collapse(&mut self, metrics: &Metrics, steps: u64) -> Result<(), TrainError> {
        let Settings { loss, ref loader, ref model, .. } = self.plan.settings;
        let warm = metrics.step.saturating_sub(steps) >= self.schedule.warmup.max(advice::FIRST_STEPS);
        if self.collapse_reported || !warm || !advice::is_guessing(metrics.loss, loss, loader.batch) {
            return Ok(());
        }
        let cosines = self.trainer.embeddings()?.map(|rows| advice::mean_cosine(&rows, model.embed_dim));
        if let Some(line) = advice::collapse(metrics.loss, loss, loader.batch, cosines) {
            self.collapse_reported = true;
            if self.is_root() {
                log::line(&line);
            }
        }
        Ok(())
    }

    /// Warns once if metrics or the curve cannot be written; the run continues.
    pub(super) fn warn_once(&mut self, written: Result<(), TrainError>) {
        if let (Err(error), false) = (written, self.log_failed) {
            self.log_failed = true;
            warn!("{error}; training continues without it");
        }
    }

    /// Redraws `curve.svg`.
    pub(super) fn draw_curve(&self) -> Result<(), TrainError> {
        let settings = &self.plan.settings;
        let (preset, loader) = (settings.model_name(), &settings.loader);
        let title = format!("flipk: {preset}, mask ratio {}, batch {}", loader.mask_ratio, loader.batch);
        let path = self.plan.folder.path().join("curve.svg");
        let history = self.log.as_ref().map_or(&[][..], MetricsLog::history);
        fs::write(&path, curve::svg(&title, history)).map_err(|why| TrainError::io("write", &path, why))
    }
}
