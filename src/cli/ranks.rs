//! The ranks of a run: one, threads of this process with a device each (`--devices`), or the processes that mpirun or
//! srun has started.

use std::str::FromStr;
use std::time::Duration;

use crate::cli::launch::{Launch, launched};
use crate::collective::{Collective, PATIENCE, ends_all, kernel_threads, on_threads};
use crate::data::Source;
use crate::error::{Error, Result};
use crate::gpu::{DeviceChoice, adapters};
use crate::logging;
use crate::recipes::Stored;

/// What `--devices` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every GPU.
    All,
    /// One rank on each of these.
    List(Vec<DeviceChoice>),
}

impl FromStr for Devices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim().eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let mut all: Vec<DeviceChoice> = Vec::new();
        for item in text.split(',').map(str::trim) {
            let (name, count) = match item.rsplit_once(':') {
                Some((name, count)) if count.bytes().all(|b| b.is_ascii_digit()) => {
                    (name, count.parse().ok())
                }
                _ => (item, Some(1)),
            };
            let Some(count @ 1..=1024) = count else {
                return Err(Error::Usage(format!(
                    "--devices: `{item}` asks for no number of ranks from 1 to 1024"
                )));
            };
            let choice = match name {
                "" => return Err(Error::Usage("--devices: all, or a list such as 0,1 or cpu:2".into())),
                name => name.parse::<DeviceChoice>()?,
            };
            if all.contains(&choice) {
                return Err(Error::Usage(format!(
                    "--devices names {name} twice; ranks that are to share a device are asked for by their number, as in \
                     {name}:2"
                )));
            }
            all.extend(std::iter::repeat_n(choice, count));
        }
        Ok(Self::List(all))
    }
}

impl Devices {
    /// The device of every rank.
    fn choices(&self) -> Result<Vec<DeviceChoice>> {
        match self {
            Self::List(all) => Ok(all.clone()),
            Self::All => {
                let all = adapters();
                let hardware = all.iter().take_while(|adapter| adapter.kind != "software").count();
                match hardware {
                    0 => Err(Error::Device(
                        "--devices all: no GPU was found; `poa-gpu devices` lists what there is, and --devices cpu:2 takes \
                         the processor twice"
                            .into(),
                    )),
                    count => Ok((0..count).map(DeviceChoice::Index).collect()),
                }
            }
        }
    }
}

/// One rank of a run, on its thread.
pub(super) struct Rank {
    /// The way to the others.
    pub ranks: Collective,
    /// Its device.
    pub device: DeviceChoice,
}

/// What a command is told of its ranks.
pub(super) struct Asked<'a> {
    /// The device of a run of one rank, or of each process.
    pub device: &'a DeviceChoice,
    /// One rank for each of these.
    pub devices: Option<&'a Devices>,
}

/// Runs `body` as every rank that is asked for; the error is that of the rank that failed first of itself.
pub(super) fn run(asked: &Asked, body: impl Fn(&Rank) -> Result<()> + Sync) -> Result<()> {
    match (launched()?, asked.devices) {
        (Some(launch), _) => as_process(&launch, asked, &body),
        (None, None) => body(&Rank { ranks: Collective::alone(), device: asked.device.clone() }),
        (None, Some(devices)) => match devices.choices()?.as_slice() {
            [one] => body(&Rank { ranks: Collective::alone(), device: one.clone() }),
            all => {
                let rank = |ranks: &Collective| {
                    let device = all.get(ranks.rank()).cloned().unwrap_or(DeviceChoice::Auto);
                    body(&Rank { ranks: ranks.clone(), device })
                };
                on_threads(all.len(), PATIENCE, rank).map(|_| ())
            }
        },
    }
}

/// As one of several processes.
fn as_process(launch: &Launch, asked: &Asked, body: &(impl Fn(&Rank) -> Result<()> + Sync)) -> Result<()> {
    kernel_threads(launch.cores())?.install(|| {
        let ranks = launch.collective(PATIENCE)?;
        let run = || body(&Rank { ranks: ranks.clone(), device: device_of(&ranks, asked)? });
        match ends_all(&ranks, run()) {
            // one of them speaks for all
            Err(e @ Error::Interrupted(_)) if !ranks.leads() => Err(Error::Elsewhere(e.to_string())),
            Err(e @ Error::Elsewhere(_)) => {
                // the rank that failed ends this process too, once it has told why
                std::thread::sleep(LAST_WORDS);
                Err(e)
            }
            result => result,
        }
    })
}

/// The device of one of several processes.
fn device_of(ranks: &Collective, asked: &Asked) -> Result<DeviceChoice> {
    let (place, on_host) = ranks.on_host();
    let Some(devices) = asked.devices else { return Ok(own_device(asked.device, place)) };
    let all = devices.choices()?;
    all.get(place).cloned().ok_or_else(|| {
        Error::Usage(format!(
            "--devices names {} devices, and {on_host} ranks are on this machine; name one for each",
            all.len()
        ))
    })
}

/// How long a rank leaves the word to the one that failed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The device of the process that is number `place` on its machine: where none is named, one GPU each.
fn own_device(asked: &DeviceChoice, place: usize) -> DeviceChoice {
    match asked {
        DeviceChoice::Auto => {
            let hardware = adapters().iter().filter(|adapter| adapter.kind != "software").count();
            match hardware {
                0 => DeviceChoice::Auto,
                count => DeviceChoice::Index(place % count),
            }
        }
        named => named.clone(),
    }
}

/// An error where ranks have other settings than rank 0, which names the first such rank and key.
pub(super) fn agree_on_settings<C: Stored>(ranks: &Collective, config: &C) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let first = ranks.hear_first(config.to_toml()?)?;
    let first = C::from_stored(&first, "rank 0".as_ref())?;
    let differences = config.differences(&first)?;
    // the learning rate follows from others, such as the batch, which are the cause
    let cause = differences.iter().find(|(key, ..)| key != "optim.lr").or(differences.first());
    let differs = cause.cloned();
    let all = ranks.tell(differs)?;
    let Some((rank, (key, there, here))) =
        all.into_iter().enumerate().find_map(|(rank, differs)| Some((rank, differs?)))
    else {
        return Ok(());
    };
    let problem = format!("is {here} on {} and {there} on {}", ranks.name(0), ranks.name(rank));
    Err(match ranks.leads() {
        true => Error::config(key, format!("{problem}; all ranks of a run must have the same settings")),
        false => Error::Elsewhere(format!("{key} {problem}")),
    })
}

/// An error where ranks have other images than rank 0.
pub(super) fn agree_on_images(ranks: &Collective, source: &dyn Source) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let names = (0..source.len()).fold(0, |sum, i| crc32c::crc32c_append(sum, source.name(i).as_bytes()));
    let classes = source
        .classes()
        .iter()
        .fold(0, |sum, name| crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), b"\n"));
    ranks.agree(&[
        ("the number of images", source.len().to_string()),
        ("the checksum of the images' names", format!("{names:08x}")),
        ("the number of classes", source.classes().len().to_string()),
        ("the checksum of the classes' names", format!("{classes:08x}")),
    ])
}

/// Says so where ranks train on devices of different kinds.
pub(super) fn tell_devices(ranks: &Collective, device: &str) -> Result<()> {
    let all = ranks.tell(device.to_string())?;
    if ranks.leads() && all.iter().any(|other| *other != all[0]) {
        let each: Vec<String> =
            all.iter().enumerate().map(|(rank, device)| format!("{rank}: {device}")).collect();
        logging::warn(format_args!(
            "ranks have different devices ({}): every step takes as long as the slowest",
            each.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipes::Config;

    #[test]
    fn another_batch_is_named_and_not_the_learning_rate_that_follows_from_it() {
        let problems: Vec<String> = on_threads(2, PATIENCE, |ranks| {
            let batch = format!("train.batch_size_per_gpu={}", 4 << ranks.rank());
            let mut config = Config::load("demo", &[batch])?;
            config.resolve(2)?;
            Ok(agree_on_settings(ranks, &config).unwrap_err().to_string())
        })
        .unwrap();
        for problem in problems {
            assert!(problem.contains("train.batch_size_per_gpu"), "{problem}");
            assert!(problem.contains("is 4 on rank 0") && problem.contains("8 on rank 1"), "{problem}");
        }
    }

    #[test]
    fn devices_are_named_once_or_with_a_number_of_ranks() {
        let list = |all: &[DeviceChoice]| Devices::List(all.to_vec());
        assert_eq!("all".parse::<Devices>().unwrap(), Devices::All);
        assert_eq!(
            "0, 1".parse::<Devices>().unwrap(),
            list(&[DeviceChoice::Index(0), DeviceChoice::Index(1)])
        );
        assert_eq!("cpu:2".parse::<Devices>().unwrap(), list(&[DeviceChoice::Cpu, DeviceChoice::Cpu]));
        let twice = "0,0".parse::<Devices>().unwrap_err().to_string();
        assert!(twice.contains("names 0 twice") && twice.contains("0:2"), "{twice}");
        for bad in ["", "0,,1", "cpu:0", "cpu:99999999999999999999", ":2"] {
            assert!(matches!(bad.parse::<Devices>(), Err(Error::Usage(_))), "{bad}");
        }
    }
}
