//! What every command that trains is told of its run.

use clap::Args;

use crate::cli::ranks::{Asked, Devices};
use crate::gpu::DeviceChoice;

/// Where a run trains, how long, and what it draws.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
    /// Trains on several devices of this machine, one rank each: all (GPUs), or a list such as 0,1 or cpu:2 (two ranks on
    /// one device). The batch of a step is that of all ranks
    #[arg(long, value_name = "DEVICES", conflicts_with = "device")]
    pub devices: Option<Devices>,
    /// Steps of the whole run; what the recipe counts in epochs shrinks in proportion (sets
    /// train.total_steps)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub steps: Option<u64>,
    /// Start of every random sequence (sets train.seed)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    pub seed: Option<u64>,
}

impl RunArgs {
    /// What the command is told of its ranks.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked { device: &self.device, devices: self.devices.as_ref() }
    }
}
