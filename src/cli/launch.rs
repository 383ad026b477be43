//! `flipk train` on several ranks: starting them, and joining those of a launcher.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::group::{Alone, Group, Launched, Launcher, Mpi, Tcp, Watched};

/// Whether this process is one of a launch, or alone because the user asked for no more.
///
/// # Errors
/// If the launcher's variables contradict each other.
pub(super) fn is_started(ranks: Option<usize>) -> Result<bool> {
    Ok(Launched::from_environment()?.is_some() || ranks.is_none_or(|ranks| ranks < 2))
}

/// The group of this process: that of its launcher, or itself alone. `ranks`: the number that the user asked for. If
/// they are not started yet, `mpiexec` replaces this process, and this does not return.
///
/// # Errors
/// If there is no launcher, or it says something else.
pub(super) fn group(ranks: Option<usize>) -> Result<Arc<dyn Group>> {
    match (Launched::from_environment()?, ranks) {
        (Some(launched), Some(ranks)) if ranks != launched.place.size => {
            bail!("--ranks {ranks} contradicts the launcher, which has started {}", launched.place.size)
        }
        (Some(launched), _) => {
            let group: Arc<dyn Group> = match launched.by {
                Launcher::Torchrun => Arc::new(Tcp::join(launched)?),
                _ => Arc::new(Mpi::join(launched)?),
            };
            Ok(Arc::new(Watched::new(group)))
        }
        (None, None | Some(1)) => Ok(Arc::new(Alone)),
        (None, Some(0)) => bail!("--ranks must be at least 1"),
        (None, Some(ranks)) => {
            let mut command = command(ranks, without(&["--ranks"], std::env::args_os().skip(1)))?;
            // It returns only the error.
            let error = command.exec();
            bail!("cannot start {}: {error}", command.get_program().display())
        }
    }
}

/// The command of `mpiexec` that starts `ranks` processes of this program with `args`.
///
/// # Errors
/// If there is no `mpiexec`.
pub(super) fn command(ranks: usize, args: Vec<OsString>) -> Result<Command> {
    let Some(mpiexec) = find(std::env::var_os("PATH").as_deref()) else {
        bail!("there is no mpiexec in PATH: install an MPI, for example with `pip install mpich`");
    };
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = Command::new(mpiexec);
    command.arg("-n").arg(ranks.to_string()).arg(program).args(args);
    // Open MPI starts neither as root nor more ranks than cores unless it is told to.
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ] {
        command.env(name, value);
    }
    Ok(command)
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
