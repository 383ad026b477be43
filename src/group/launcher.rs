//! Which rank this process is, as the program that started it says in its environment.

use super::GroupError;

/// A program that starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// `mpiexec` of MPICH, Intel MPI and their kin.
    Hydra,
    /// `torchrun`.
    Torchrun,
    /// `srun`.
    Slurm,
}

/// The place of this process in a launch of more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Who started it.
    pub by: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// Its number among the processes on this machine.
    pub local_rank: usize,
    /// The number of processes on this machine.
    pub local_size: usize,
}

/// The variables of a launcher: rank, size, and both on this machine, as far as it has them.
struct Variables {
    by: Launcher,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: Option<&'static str>,
}

/// The innermost launcher first: `srun` may start `mpiexec`, which starts ranks.
const KNOWN: [Variables; 4] = [
    Variables {
        by: Launcher::Torchrun,
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: Some("LOCAL_WORLD_SIZE"),
    },
    Variables {
        by: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
    },
    Variables {
        by: Launcher::Hydra,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: Some("MPI_LOCALNRANKS"),
    },
    Variables {
        by: Launcher::Slurm,
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: None,
    },
];

impl Launched {
    /// What the environment says; `None` if this process was started alone.
    ///
    /// # Errors
    /// Variables that are no numbers, or launchers that contradict each other.
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
            let local_rank = number(known.local_rank)?.unwrap_or(rank);
            let local_size = known.local_size.map(number).transpose()?.flatten();
            // SLURM says how many processes each node has, as in `4(x2),3`; a guess from below is enough for threads.
            let local_size = local_size.unwrap_or(local_rank + 1).max(local_rank + 1);
            let this = Self { by: known.by, rank, size, local_rank, local_size };
            match found {
                // SLURM's variables are inherited by what other launchers start inside an allocation.
                Some(_) if known.by == Launcher::Slurm => {}
                Some(other) if (other.rank, other.size) != (rank, size) => {
                    return Err(problem(format!(
                        "the environment names two launches: rank {} of {} ({:?}) and rank {rank} of {size} ({:?}); \
                         unset the variables of one of them",
                        other.rank, other.size, other.by, known.by
                    )));
                }
                Some(_) => {}
                None => found = Some(this),
            }
        }
        Ok(found.filter(|found| found.size > 1))
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
        let expected = Launched { by: Launcher::Hydra, rank: 5, size: 8, local_rank: 1, local_size: 4 };
        assert_eq!(found(&hydra), Ok(Some(expected)));
        let slurm = [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_LOCALID", "1")];
        let by_srun = Launched { by: Launcher::Slurm, rank: 3, size: 4, local_rank: 1, local_size: 2 };
        assert_eq!(found(&slurm), Ok(Some(by_srun)));
        // mpiexec within an allocation: what it says counts.
        let inside = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(found(&[&hydra[..], &inside].concat()), Ok(Some(expected)));
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
