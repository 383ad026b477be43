//! Which rank this process is, by the environment variables of the program that started it.

use super::{GroupError, Place, children};

/// A program that starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// flipk itself.
    Flipk,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// `mpiexec` of MPICH, Intel MPI and other MPIs with the Hydra launcher.
    Hydra,
    /// `torchrun`.
    Torchrun,
    /// `srun`.
    Slurm,
}

/// The place of this process in a launch of several, and what started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// What started it.
    pub by: Launcher,
    /// Its place.
    pub place: Place,
    /// Whether the launcher says which ranks are on this machine; if not, the place is as if all were.
    pub local: bool,
}

/// The names of a launcher's variables: rank, size, and both on this machine where it sets them.
struct Variables {
    by: Launcher,
    rank: &'static str,
    size: &'static str,
    local: Option<[&'static str; 2]>,
}

/// The innermost launcher first: `srun` may start `mpiexec`, which starts ranks.
const KNOWN: [Variables; 5] = [
    Variables {
        by: Launcher::Flipk,
        rank: children::RANK,
        size: children::RANKS,
        local: Some([children::RANK, children::RANKS]),
    },
    Variables {
        by: Launcher::Torchrun,
        rank: "RANK",
        size: "WORLD_SIZE",
        local: Some(["LOCAL_RANK", "LOCAL_WORLD_SIZE"]),
    },
    Variables {
        by: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local: Some(["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"]),
    },
    Variables {
        by: Launcher::Hydra,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local: Some(["MPI_LOCALRANKID", "MPI_LOCALNRANKS"]),
    },
    Variables {
        by: Launcher::Slurm,
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        // It gives the processes of each machine as `4(x2),3`.
        local: None,
    },
];

impl Launched {
    /// Reads the environment; `None` if this process was started alone.
    ///
    /// # Errors
    /// Variables that are not numbers, or launchers that contradict each other.
    pub fn from_environment() -> Result<Option<Self>, GroupError> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, GroupError> {
        let number = |name: &str| -> Result<Option<usize>, GroupError> {
            let Some(text) = variable(name) else { return Ok(None) };
            text.trim().parse().map(Some).map_err(|_| problem(format!("{name}={text} is not a number")))
        };
        let mut found: Option<Self> = None;
        for known in KNOWN {
            let (Some(rank), Some(size)) = (number(known.rank)?, number(known.size)?) else { continue };
            if rank >= size {
                let (what, all) = (known.rank, known.size);
                return Err(problem(format!("{what}={rank} and {all}={size}: there is no such rank")));
            }
            let local = match known.local {
                Some([local_rank, local_size]) => number(local_rank)?.zip(number(local_size)?),
                None => None,
            };
            // `srun --mpi=pmi2` sets the first two of Hydra's variables.
            let (local_rank, local_size) = local.unwrap_or((rank, size));
            let place = Place { rank, size, local_rank, local_size: local_size.max(local_rank + 1) };
            let this = Self { by: known.by, place, local: local.is_some() };
            match found {
                // Inherited: `srun` may start another launcher, and any of them may start flipk, which starts ranks.
                Some(Self { by, .. }) if by == Launcher::Flipk || known.by == Launcher::Slurm => {}
                Some(Self { by, place: Place { rank: other, size: of, .. }, .. }) if (other, of) != (rank, size) => {
                    return Err(problem(format!(
                        "the environment names two launches: rank {other} of {of} ({by:?}) and rank {rank} of {size} ({:?}); \
                         unset the variables of one of them",
                        known.by
                    )));
                }
                Some(_) => {}
                None => found = Some(this),
            }
        }
        Ok(found.filter(|found| found.place.size > 1))
    }
}

fn problem(problem: String) -> GroupError {
    GroupError::Launch { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Option<Launched>, String> {
        let variable = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
        Launched::from(variable).map_err(|error| error.to_string())
    }

    #[test]
    fn each_launcher_is_understood() {
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]), Ok(None));
        let hydra = [("PMI_RANK", "5"), ("PMI_SIZE", "8"), ("MPI_LOCALRANKID", "1"), ("MPI_LOCALNRANKS", "4")];
        let place = Place { rank: 5, size: 8, local_rank: 1, local_size: 4 };
        let expected = Launched { by: Launcher::Hydra, place, local: true };
        assert_eq!(found(&hydra), Ok(Some(expected)));
        let slurm = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4")];
        let somewhere = |by| Launched { by, place: Place::on_one_machine(3, 4), local: false };
        assert_eq!(found(&slurm), Ok(Some(somewhere(Launcher::Slurm))));
        let pmi = [("PMI_RANK", "3"), ("PMI_SIZE", "4")];
        assert_eq!(found(&[&slurm[..], &pmi].concat()), Ok(Some(somewhere(Launcher::Hydra))));
        // mpiexec within an allocation takes precedence.
        let inside = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(found(&[&hydra[..], &inside].concat()), Ok(Some(expected)));
        // flipk was one process of a launch, and has started ranks.
        let own = [("FLIPK_RANK", "2"), ("FLIPK_RANKS", "3"), ("PMI_RANK", "0"), ("PMI_SIZE", "1")];
        let expected = Launched { by: Launcher::Flipk, place: Place::on_one_machine(2, 3), local: true };
        assert_eq!(found(&[&own[..], &inside].concat()), Ok(Some(expected)));
    }

    #[test]
    fn contradictions_are_errors() {
        let error = |variables: &[(&str, &str)]| found(variables).unwrap_err();
        assert!(error(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK=x is not a number"));
        assert!(error(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).contains("there is no such rank"));
        let two = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
        assert!(error(&two).contains("rank 1 of 4 (OpenMpi) and rank 1 of 2 (Hydra)"));
    }
}
