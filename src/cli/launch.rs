//! `flipk train` on several ranks: how they are started, and how they join.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};

use super::choice::Gpus;
use super::device::DeviceArgs;
use crate::group::{Alone, Children, Group, Launched, Launcher, Mpi, Place, Share, Tcp, Watched};
use crate::log;

/// The ranks to start on this machine.
#[derive(Args)]
#[command(group = ArgGroup::new("launch").args(["ranks", "gpus"]))]
pub(super) struct LaunchArgs {
    /// Number of processes to start on this machine, connected by MPI if mpiexec is in PATH (`pip install mpich`), else
    /// by TCP, where all data passes through rank 0. On several machines, start flipk with mpirun, srun or torchrun
    /// instead. The ranks share the --micro-batches of each batch, by default one each; the weights depend on the
    /// number of micro-batches, not on the number of ranks, to the bit
    #[arg(long, value_name = "N")]
    ranks: Option<NonZeroUsize>,
    /// Number of GPUs of this machine to train on, or `all`: starts a process for each, as --ranks does. NCCL connects
    /// them (`pip install nvidia-nccl-cu13`); MPI is not needed
    #[arg(long, value_name = "N|all")]
    gpus: Option<Gpus>,
    /// With --ranks or --gpus: if the run fails and another attempt may succeed (see the exit codes above),
    /// continue from its newest checkpoint, up to N times. Needs --out or --resume
    #[arg(long, value_name = "N", requires = "launch")]
    pub(super) restarts: Option<usize>,
}

impl LaunchArgs {
    /// The ranks that this process is to start; `None` if it is one itself. `--gpus` chooses the device.
    ///
    /// # Errors
    /// If there are fewer GPUs, or the launcher's variables contradict each other.
    pub(super) fn launch(&self, device: &mut DeviceArgs) -> Result<Option<Launch>> {
        if self.gpus.is_some() {
            device.need_gpu()?;
        }
        if Launched::from_environment()?.is_some() {
            return Ok(None);
        }
        let ranks = match (self.ranks, self.gpus) {
            (ranks, None) => ranks.map_or(1, NonZeroUsize::get),
            (_, Some(gpus)) => device.gpus(gpus)?,
        };
        if ranks == 1 && self.restarts.is_none() {
            return Ok(None);
        }
        if ranks == 1 || self.gpus.is_some() {
            return Ok(Some(Launch::Own { ranks }));
        }
        Ok(Some(match find(std::env::var_os("PATH").as_deref()) {
            Some(mpiexec) => Launch::Mpi { mpiexec, ranks },
            None => {
                log::line(&format!(
                    "there is no mpiexec in PATH: TCP connects the {ranks} ranks, and all data passes through rank 0; for \
                     MPI, `pip install mpich`"
                ));
                Launch::Own { ranks }
            }
        }))
    }

    /// Compares what the user asked for with what a launcher has started.
    ///
    /// # Errors
    /// If they differ.
    pub(super) fn check(&self, place: Place, device: &DeviceArgs) -> Result<()> {
        if let Some(ranks) = self.ranks.filter(|ranks| ranks.get() != place.size) {
            bail!("--ranks {ranks} contradicts the launcher, which has started {}", place.size);
        }
        if self.restarts.is_some() {
            bail!("--restarts is for ranks that flipk starts itself; a launcher has started these");
        }
        // A launcher may show each rank its own GPU alone.
        let wanted = match self.gpus {
            None => return Ok(()),
            Some(Gpus::Number(wanted)) => wanted,
            Some(Gpus::All) => Some(device.gpus(Gpus::All)?).filter(|seen| *seen > 1).unwrap_or(place.local_size),
        };
        if wanted != place.local_size {
            bail!(
                "--gpus asks for {wanted} ranks on this machine, and the launcher has started {}: let the launcher \
                 start one rank per GPU, and leave out --gpus",
                place.local_size
            );
        }
        Ok(())
    }
}

/// How ranks are started on this machine.
#[derive(Debug)]
pub(super) enum Launch {
    /// By `mpiexec`.
    Mpi { mpiexec: PathBuf, ranks: usize },
    /// As children of this process, which TCP connects.
    Own { ranks: usize },
}

impl Launch {
    /// The commands to start this program with `args`: that of `mpiexec`, or one for each rank.
    ///
    /// # Errors
    /// If the program is not found, or there is no port for it.
    pub(super) fn commands(&self, args: &[OsString]) -> Result<Vec<Command>> {
        let program = std::env::current_exe().context("cannot find the program itself")?;
        match self {
            Self::Mpi { mpiexec, ranks } => {
                let mut command = Command::new(mpiexec);
                command.arg("-n").arg(ranks.to_string()).arg(program).args(args);
                // Open MPI starts neither as root nor more ranks than cores unless it is told to.
                command.envs([
                    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
                    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
                    // Nor does it let two ranks use more than a core each.
                    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
                    ("PRTE_MCA_hwloc_default_binding_policy", "none"),
                ]);
                Ok(vec![command])
            }
            &Self::Own { ranks } => {
                let children = Children::new(ranks).context("cannot listen for the ranks")?;
                let command = |rank| {
                    // The file may have been replaced since this process started.
                    let this = if cfg!(target_os = "linux") { Path::new("/proc/self/exe") } else { &program };
                    let mut command = Command::new(this);
                    command.arg0(&program).args(args);
                    if ranks > 1 {
                        children.hand_to(rank, &mut command);
                    }
                    if rank > 0 {
                        command.stdout(Stdio::null());
                    }
                    command
                };
                Ok((0..ranks).map(command).collect())
            }
        }
    }
}

/// The group of this process: that of its launcher, or itself alone.
///
/// # Errors
/// If the launcher's variables contradict each other, or the ranks cannot be connected.
pub(super) fn group() -> Result<Arc<dyn Group>> {
    let Some(launched) = Launched::from_environment()? else { return Ok(Arc::new(Alone)) };
    let group: Arc<dyn Group> = match launched.by {
        Launcher::Flipk | Launcher::Torchrun => Arc::new(Tcp::join(launched)?),
        Launcher::Hydra | Launcher::OpenMpi | Launcher::Slurm => Arc::new(Mpi::join(launched)?),
    };
    let (share, mut place) = (Share::in_group(&*group)?, launched.place);
    if !launched.local {
        (place.local_rank, place.local_size) = (share.rank, share.ranks);
    }
    Ok(Arc::new(Watched::new(group, place, share.cores)))
}

fn find(path: Option<&OsStr>) -> Option<PathBuf> {
    let folders = std::env::split_paths(path?).collect::<Vec<_>>();
    let programs = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| is_program(path));
    programs("mpiexec").or_else(|| programs("mpirun"))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The arguments, except these flags, each of which has a value.
pub(super) fn without(flags: &[&str], arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let (name, value) = text.split_once('=').map_or((&*text, None), |(name, value)| (name, Some(value)));
        match (flags.contains(&name), value) {
            (true, None) => drop(arguments.next()),
            (true, Some(_)) => {}
            (false, _) => kept.push(argument),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_start_with_the_other_arguments() {
        let given = ["train", "--ranks", "4", "--batch=8", "--ranks=2", "--seed", "1"].map(OsString::from);
        assert_eq!(without(&["--ranks"], given.into_iter()), ["train", "--batch=8", "--seed", "1"]);
    }

    #[test]
    fn the_launcher_is_a_program_in_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mpiexec");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find(Some(folder.path().as_os_str())), None);
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(folder.path().as_os_str())), Some(file));
        assert_eq!(find(None), None);
    }
}
