//! `flipk train`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::device::{DeviceArgs, Job};
use super::launch::LaunchArgs;
use super::openclip::OpenClip;
use super::progress::Screen;
use super::signals::{STOPPING, interrupt_rank, stop_on_usr1};
use super::supervise::{self, Restarts};
use super::table::{percent, table};
use super::{launch, logging, put, report};
use crate::device::DeviceError;
use crate::group::{Group, GroupError, MAY_PASS, RELAYING, Watch};
use crate::ops::AllOps;
use crate::train::{Ended, Options, Plan, Precision, Progress, Summary, TrainError, time, train};

/// Train a model and evaluate it on held-out data
///
/// Without options, it trains a small model on the emoji built into the program and evaluates it on a drawing style
/// that it never saw. Ctrl-C saves a checkpoint and exits with code 0; a second Ctrl-C exits at once. SIGTERM and
/// SIGUSR1 save and exit, too.
///
/// Exit codes: 0 if the run is finished, or was stopped and saved; 1 if the same command would fail again (a wrong
/// option or path, too many broken samples, a loss that is not finite); 2 for a wrong command line; 75 if another
/// attempt may succeed (a disk, a server, a device or another rank failed); 128 plus the signal if a rank was killed.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk train
  flipk train --mask-ratio 0.5 --epochs 20
  flipk train --time 5m                        # as many samples as fit
  flipk train --model b16 --data 'cc12m/{00000..01242}.tar' --tokenizer vocab.txt --batch 1024 --epochs 10
  flipk train --config my.toml --seed 1        # keys are the options with _ for -
  flipk train --gpus 8                         # a process for each GPU; on many machines: srun flipk train ...
  flipk train --ranks 2 --micro-batches 4      # two processes on CPUs
  flipk train --gpus all --restarts 3 --out runs/a    # restarts by itself if a rank dies
  flipk train --resume runs/b16-001            # continue from the last checkpoint, to the bit
  flipk train --resume runs/b16-001/checkpoints/step-00012000.safetensors --lr 1e-4   # from an older one
  flipk train --init-from runs/b16-001 --mask-ratio 0 --base-lr 4e-8 --samples 128000000   # unmasked tuning")]
pub(super) struct Train {
    /// TOML file with options; flags override it
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Resume a run: its folder (from its newest intact checkpoint; damaged ones are skipped with a warning), one of
    /// its checkpoint files, or `latest` (the run under runs/ that was written to last). Anything later than the
    /// checkpoint is moved into the run's set-aside/. Other flags override the run's config.toml
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "init_from", "time"])]
    resume: Option<PathBuf>,
    /// Folder of the new run [default: the first free runs/PRESET-NNN]
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    launch: LaunchArgs,
    /// If a rank has waited for others this long, and one of them has made no progress for as long, report which rank
    /// that is, on which machine, and what it was doing, and end all ranks. The first step may take three times as long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
    comm_timeout: Duration,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    openclip: OpenClip,
}

struct Training {
    plan: Plan,
    stop: Arc<AtomicBool>,
    /// Whether this is rank 0, which prints.
    is_root: bool,
}

impl Job for Training {
    type Output = Ended;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Ended> {
        let mut screen = self.is_root.then(Screen::new);
        let mut show = |progress: Progress| {
            if let Some(screen) = &mut screen {
                screen.show(progress);
            }
        };
        Ok(train(device, self.plan, &self.stop, &mut show)?)
    }
}

impl Train {
    pub(super) fn run(mut self) -> Result<ExitCode> {
        if let Some(launch) = self.launch.launch(&mut self.device)? {
            let restarts = |max| Restarts::new(max, self.out.as_deref(), self.resume.as_deref());
            return supervise::run(&launch, self.launch.restarts.map(restarts).transpose()?.as_ref());
        }
        // From the start: a signal that comes while ranks are connected or shards are listed must not kill this one.
        let stop = Arc::default();
        stop_on_usr1(&stop);
        let group = match launch::group() {
            Ok(group) => group,
            Err(error) => {
                report(&error);
                return Ok(exit_code(&error).into());
            }
        };
        if !group.is_root() {
            logging::prefix_rank(group.rank());
        }
        let Err(error) = self.run_in(&group, stop) else { return Ok(ExitCode::SUCCESS) };
        let code = exit_code(&error);
        if is_said_elsewhere(&error, &*group) {
            // Another rank says why, and all ranks end. Launchers end all as soon as one has failed.
            std::thread::sleep(2 * HEAD_START);
            return Ok(code.into());
        }
        if !group.is_root() {
            // Rank 0 may have the same problem: then it says so, and ends this rank, or the group.
            std::thread::sleep(HEAD_START);
            if group.has_ended() {
                return Ok(code.into());
            }
        }
        report(&error);
        if group.size() > 1 {
            std::thread::sleep(RELAYING);
        }
        // Others may be waiting for this rank.
        group.abort(code);
        Ok(code.into())
    }

    fn run_in(mut self, group: &Arc<dyn Group>, stop: Arc<AtomicBool>) -> Result<()> {
        self.launch.check(group.place(), &self.device)?;
        let mut options = Options { precision: self.device.precision(), ..self.options };
        self.openclip.apply(&mut options)?;
        let plan = match (&self.resume, &self.config) {
            (Some(folder), _) => Plan::resume_in(group.clone(), folder, options)?,
            (None, Some(file)) => Plan::start_in(group.clone(), options.over_file(file)?, self.out.as_deref())?,
            (None, None) => Plan::start_in(group.clone(), options, self.out.as_deref())?,
        };
        let folder = plan.folder.clone();
        let precision = plan.settings.options.precision;
        interrupt_rank(&stop, STOPPING, group.is_root(), group.size() > 1)?;
        let _watch = Watch::start(group, folder.path(), self.comm_timeout)?;
        self.device.share(group);
        let ended =
            self.device.run_in(precision, Precision::Bf16, Training { plan, stop, is_root: group.is_root() })?;
        if !group.is_root() {
            return Ok(());
        }
        match ended {
            Ended::Finished(summary) => {
                put(format_args!("{}", show(&summary)))?;
                let folder = folder.path().display();
                put(format_args!("\nsummary: {folder}/summary.json   curve: {folder}/curve.svg\n"))?;
                put(format_args!("try it:  flipk eval retrieval {folder}\n"))?;
            }
            Ended::Interrupted { step, checkpoint } => {
                put(format_args!("stopped after step {step}; saved {}\n", checkpoint.display()))?;
                put(format_args!("continue with: flipk train --resume {}\n", folder.path().display()))?;
            }
        }
        Ok(())
    }
}

/// How long other ranks wait for rank 0 to report a problem that all have.
const HEAD_START: Duration = Duration::from_millis(500);

/// Whether the error of this rank is the consequence of another's, or the same as that of rank 0.
fn is_said_elsewhere(error: &anyhow::Error, group: &dyn Group) -> bool {
    match error.downcast_ref() {
        Some(TrainError::OtherRank { .. }) => true,
        Some(
            TrainError::Diverged { .. }
            | TrainError::Group(GroupError::Gone)
            | TrainError::Device(DeviceError::Group(GroupError::Gone)),
        ) => !group.is_root(),
        _ => false,
    }
}

/// 1, or [`MAY_PASS`]; see the help.
fn exit_code(error: &anyhow::Error) -> u8 {
    let may_pass = error.downcast_ref().is_some_and(TrainError::may_pass)
        || error.downcast_ref().is_some_and(GroupError::may_pass)
        || error.downcast_ref().is_some_and(DeviceError::may_pass);
    if may_pass { MAY_PASS } else { 1 }
}

fn show(summary: &Summary) -> String {
    let mut rows = vec![
        ["samples".to_owned(), summary.samples.to_string()],
        ["final loss".to_owned(), format!("{:.4}", summary.final_loss)],
        ["speed".to_owned(), format!("{:.1} samples/s, {:.0} GFLOP/s", summary.samples_per_second, summary.gflops)],
        ["wall time".to_owned(), format!("{:.1} s", summary.wall_seconds)],
    ];
    if let (Some(top1), Some(top5), Some(classes)) = (summary.zero_shot_top1, summary.zero_shot_top5, summary.classes) {
        rows.push(["held-out zero-shot top-1".to_owned(), format!("{} of {classes} classes", percent(top1))]);
        rows.push(["held-out zero-shot top-5".to_owned(), percent(top5)]);
    }
    for (kind, count) in &summary.skipped {
        rows.push([format!("skipped: {kind}"), count.to_string()]);
    }
    for (kind, count) in &summary.eval_skipped {
        rows.push([format!("skipped in evaluation: {kind}"), count.to_string()]);
    }
    table(["", ""], &rows).trim_start().to_owned()
}
