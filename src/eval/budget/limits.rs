//! What a network may cost at most: `5ms`, `20M`, `2gflops`, `1.5GiB`.

use crate::error::{Error, Result};
use crate::eval::budget::price::{Price, gigaflops, mebibytes, millions, milliseconds};
use crate::shown::shown;

/// Kinds of limits, and what a limit says of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Latency,
    Parameters,
    Flops,
    Memory,
}

/// Units in lower case, but for those of parameters, with their kind and how much one is.
const UNITS: [(&str, Kind, f64); 22] = [
    ("us", Kind::Latency, 1e-6),
    ("µs", Kind::Latency, 1e-6),
    ("ms", Kind::Latency, 1e-3),
    ("s", Kind::Latency, 1.0),
    ("k", Kind::Parameters, 1e3),
    ("K", Kind::Parameters, 1e3),
    ("M", Kind::Parameters, 1e6),
    ("B", Kind::Parameters, 1e9),
    ("mflops", Kind::Flops, 1e6),
    ("gflops", Kind::Flops, 1e9),
    ("tflops", Kind::Flops, 1e12),
    ("mflop", Kind::Flops, 1e6),
    ("gflop", Kind::Flops, 1e9),
    ("tflop", Kind::Flops, 1e12),
    // a multiplication with its addition counts as two operations here
    ("mmacs", Kind::Flops, 2e6),
    ("gmacs", Kind::Flops, 2e9),
    ("kib", Kind::Memory, 1024.0),
    ("mib", Kind::Memory, 1048576.0),
    ("gib", Kind::Memory, 1073741824.0),
    ("kb", Kind::Memory, 1e3),
    ("mb", Kind::Memory, 1e6),
    ("gb", Kind::Memory, 1e9),
];

/// Most that a network may cost; what is none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Seconds of a forward pass.
    pub latency: Option<f64>,
    /// Parameters, as timm counts them.
    pub parameters: Option<f64>,
    /// Floating-point operations of an image.
    pub flops: Option<f64>,
    /// Bytes of weights and activations.
    pub memory: Option<f64>,
}

impl Limits {
    /// The limits of texts such as `5ms` or `20M,1.5GiB`, each kind once. A unit that is not known, and a number that is not more
    /// than 0, are errors.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let mut limits = Self::default();
        for word in texts.iter().flat_map(|t| t.as_ref().split([',', ' '])).filter(|word| !word.is_empty()) {
            let (kind, value) = limit(word)?;
            if limits.slot(kind).replace(value).is_some() {
                let problem = "is a second limit of its kind; give one of each";
                return Err(Error::Usage(format!("--fits: `{}` {problem}", shown(word))));
            }
        }
        match limits == Self::default() {
            true => Err(Error::Usage(format!("--fits names no limit; {EXAMPLES}"))),
            false => Ok(limits),
        }
    }

    /// By how much a network exceeds the limit that it exceeds most: its cost over the limit, 1 or less where it fits. A latency that
    /// is not known exceeds none.
    pub fn excess(&self, price: &Price) -> f64 {
        let over = |limit: Option<f64>, cost: f64| limit.map_or(0.0, |limit| cost / limit);
        let latency = price.latency.map_or(0.0, |latency| over(self.latency, latency.seconds));
        latency.max(self.excess_but_latency(price))
    }

    /// The same without the limit of latency.
    pub fn excess_but_latency(&self, price: &Price) -> f64 {
        let over = |limit: Option<f64>, cost: f64| limit.map_or(0.0, |limit| cost / limit);
        over(self.parameters, price.parameters as f64)
            .max(over(self.flops, price.flops as f64))
            .max(over(self.memory, price.memory as f64))
    }

    /// The limits in words.
    pub fn describe(&self) -> String {
        let all = [
            self.latency.map(milliseconds),
            self.parameters.map(millions),
            self.flops.map(gigaflops),
            self.memory.map(mebibytes),
        ];
        all.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn slot(&mut self, kind: Kind) -> &mut Option<f64> {
        match kind {
            Kind::Latency => &mut self.latency,
            Kind::Parameters => &mut self.parameters,
            Kind::Flops => &mut self.flops,
            Kind::Memory => &mut self.memory,
        }
    }
}

const EXAMPLES: &str = "give one or more of a latency (5ms, 800us, 1.5s), parameters (20M, 800k), operations of an image \
                        (2gflops, 1gmacs) and memory (1.5GiB, 600MiB, 2GB)";

fn limit(word: &str) -> Result<(Kind, f64)> {
    let end = word.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(word.len());
    let (number, unit) = word.split_at(end);
    let wrong = |problem: String| Error::Usage(format!("--fits: `{}` {problem}; {EXAMPLES}", shown(word)));
    let value: f64 = number.parse().map_err(|_| wrong("does not begin with a number".into()))?;
    let lower = unit.to_lowercase();
    let known = UNITS.iter().find(|(name, kind, _)| match kind {
        Kind::Parameters => *name == unit,
        _ => *name == lower,
    });
    let Some((_, kind, one)) = known else {
        return Err(wrong(match unit {
            "" => "has no unit".into(),
            "m" => format!("has a unit with two meanings: {number}ms of time or {number}M parameters?"),
            "g" | "G" => format!("has a unit with two meanings: {number}gflops or {number}GiB?"),
            _ => format!("has the unit `{}`, which is not known", shown(unit)),
        }));
    };
    match value > 0.0 && value.is_finite() {
        true => Ok((*kind, value * one)),
        false => Err(wrong("is not more than 0".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units_and_combine() {
        let limits = Limits::parse(&["5ms", "20M,2gflops 1.5GiB"]).unwrap();
        assert_eq!(
            limits,
            Limits {
                latency: Some(0.005),
                parameters: Some(20e6),
                flops: Some(2e9),
                memory: Some(1.5 * 1073741824.0)
            }
        );
        assert_eq!(limits.describe(), "5.00 ms, 20.0M parameters, 2.00 GFLOPs, 1.50 GiB");
        assert_eq!(Limits::parse(&["1GMACs"]).unwrap().flops, Some(2e9));
        assert_eq!(Limits::parse(&["800k"]).unwrap().parameters, Some(800e3));
        assert_eq!(Limits::parse(&["800µs"]).unwrap().latency, Some(800.0 * 1e-6));
    }

    #[test]
    fn what_is_no_limit_is_named_with_what_would_be_one() {
        for (text, problem) in [
            ("5", "has no unit"),
            ("5parsecs", "`parsecs`, which is not known"),
            ("20m", "20ms of time or 20M parameters"),
            ("2G", "2gflops or 2GiB"),
            ("0ms", "is not more than 0"),
            ("-5ms", "does not begin with a number"),
            ("1.2.3ms", "does not begin with a number"),
            (",", "names no limit"),
            ("5ms,6ms", "second limit of its kind"),
        ] {
            let error = Limits::parse(&[text]).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
