//! Whether this process is one of several that mpirun or srun has started.

use std::time::Duration;

use crate::collective::Collective;
use crate::error::{Error, Result};

/// What started this process as one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    /// How many processes there are.
    size: usize,
    /// How many of them are on this machine, where that is known.
    here: Option<usize>,
    /// Who has started them.
    by: &'static str,
}

/// The variables that tell how many processes were started together, and who sets them. `SLURM_NTASKS` is not among
/// them: a batch script has it too, which runs once.
const SIZES: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", "mpirun of Open MPI"),
    ("PMI_SIZE", "mpirun or srun"),
    ("MPI_LOCALNRANKS", "mpirun of MPICH"),
    ("SLURM_STEP_NUM_TASKS", "srun"),
];

/// The variables that tell how many of them are on this machine; SLURM's may go on, as `4(x2)` does.
const HERE: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE"];

/// What an environment tells; `None` where this process was started by itself.
fn told(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    let leading = |text: String| {
        let text = text.trim();
        let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<usize>().ok()
    };
    let here = HERE.iter().find_map(|name| variable(name).and_then(leading));
    // the innermost one decides, as of mpirun within a step of srun
    let (size, by) = SIZES.iter().find_map(|(name, by)| Some((variable(name)?, *by)))?;
    let size = size.trim().parse().ok().filter(|size| *size > 1)?;
    Some(Launch { size, here, by })
}

/// What started this process as one of several; `None` where it was started by itself. Several processes need the
/// feature `mpi`; without it that is an error, before anything is written.
pub(super) fn launched() -> Result<Option<Launch>> {
    let launch = told(|name| std::env::var(name).ok());
    match launch {
        Some(launch) if !cfg!(feature = "mpi") => Err(Error::Usage(format!(
            "{} has started {} processes, and this program was built without the feature `mpi`, by which they would \
             train together: cargo build --release --features mpi (one machine needs no MPI: --devices all)",
            launch.by, launch.size
        ))),
        launch => Ok(launch),
    }
}

impl Launch {
    /// Cores for this process. Where the launcher has bound it to some, they are its own.
    pub fn cores(&self) -> usize {
        let may_use = std::thread::available_parallelism().map_or(1, usize::from);
        match cores_online() {
            Some(all) if may_use < all => may_use,
            _ => (may_use / self.here.unwrap_or(1).max(1)).max(1),
        }
    }

    /// The ranks that this process is one of, for the thread that calls.
    #[cfg(feature = "mpi")]
    pub fn collective(&self, patience: Duration) -> Result<Collective> {
        let ranks = Collective::over(crate::collective::Mpi::open, patience)?;
        match ranks.is_alone() {
            false => Ok(ranks),
            true => Err(Error::Usage(format!(
                "{} has started {} processes, and MPI knows of one alone: the program was built with another MPI than the \
                 one that starts it (srun --mpi=list names what srun can do)",
                self.by, self.size
            ))),
        }
    }

    /// As [`launched`] tells, there is no such process.
    #[cfg(not(feature = "mpi"))]
    pub fn collective(&self, _: Duration) -> Result<Collective> {
        Ok(Collective::alone())
    }
}

#[cfg(unix)]
fn cores_online() -> Option<usize> {
    // SAFETY: the call only asks.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok()
}

#[cfg(not(unix))]
fn cores_online() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_processes_are_known_by_who_starts_them() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            told(move |name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4")]).map(|l| l.size), Some(4));
        assert_eq!(of(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_NTASKS", "8")]).map(|l| l.size), Some(8));
        assert_eq!(of(&[("PMI_SIZE", "2")]).map(|l| l.size), Some(2));
        assert_eq!(of(&[("SLURM_NTASKS", "8")]), None, "a batch script runs once");
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        let within = [("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(of(&within), None, "mpirun of one process in a step of two daemons");
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
        let here = of(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_STEP_TASKS_PER_NODE", "4(x2)")]);
        assert_eq!(here.and_then(|l| l.here), Some(4));
    }
}
