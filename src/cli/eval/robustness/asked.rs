//! What the command line asks for: kinds of changes, shares, pieces, a head.

use crate::checks::unknown;
use crate::error::{Error, Result};
use crate::logging::info;
use crate::shown::shown;

/// The pieces of the official shuffling study, at 224 pixels.
const PIECES: [[usize; 2]; 8] = [[1, 1], [2, 2], [2, 4], [4, 4], [4, 8], [8, 8], [14, 14], [16, 16]];

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Random,
    Salient,
    NonSalient,
    Shuffle,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Random, Self::Salient, Self::NonSalient, Self::Shuffle];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Salient => "salient",
            Self::NonSalient => "non-salient",
            Self::Shuffle => "shuffle",
        }
    }

    pub(super) fn by_attention(self) -> bool {
        matches!(self, Self::Salient | Self::NonSalient)
    }

    /// All that networks with or without attention of a class token can be asked.
    pub(super) fn possible(attends: bool) -> Vec<Self> {
        Self::ALL.into_iter().filter(|kind| attends || !kind.by_attention()).collect()
    }

    /// Those that are asked for, each once; none where all that is possible is meant.
    pub(super) fn all(texts: &[String]) -> Result<Option<Vec<Self>>> {
        let mut kinds = Vec::new();
        for word in words(texts) {
            let kind = Self::ALL.into_iter().find(|kind| kind.name() == word);
            let kind =
                kind.ok_or_else(|| Error::Usage(unknown("--kind", word, &Self::ALL.map(Self::name))))?;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        Ok((!kinds.is_empty()).then_some(kinds))
    }
}

fn words(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(|text| text.split([',', ' '])).filter(|word| !word.is_empty())
}

/// Shares of 0 to 1, ascending, each once.
pub(super) fn ratios(texts: &[String]) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for word in words(texts) {
        match word.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => all.push(share),
            _ => {
                let problem = format!("--ratio: `{}` is no share of 0 to 1, for example 0.5", shown(word));
                return Err(Error::Usage(problem));
            }
        }
    }
    all.sort_by(f64::total_cmp);
    all.dedup();
    match all.is_empty() {
        true => Err(Error::Usage("--ratio names no share; give some, as in --ratio 0,0.5".into())),
        false => Ok(all),
    }
}

/// Rows and columns of pieces of images of `side` pixels; those of the official code that divide it where none are asked for.
pub(super) fn pieces(texts: &[String], side: usize) -> Result<Vec<[usize; 2]>> {
    let divides =
        |[rows, columns]: &[usize; 2]| [rows, columns].into_iter().all(|n| *n > 0 && side.is_multiple_of(*n));
    let mut all: Vec<[usize; 2]> = Vec::new();
    for word in words(texts) {
        let read = word.split_once('x').and_then(|(r, c)| Some([r.parse().ok()?, c.parse().ok()?]));
        let read = read.ok_or_else(|| {
            Error::Usage(format!(
                "--pieces: `{}` is no number of rows and columns, for example 4x4",
                shown(word)
            ))
        })?;
        if !divides(&read) {
            return Err(Error::Usage(format!(
                "--pieces {word}: images of {side} pixels a side cannot be cut so; rows and columns must divide {side}"
            )));
        }
        if !all.contains(&read) {
            all.push(read);
        }
    }
    if all.is_empty() {
        all.extend(PIECES.iter().filter(|pieces| divides(pieces)));
        let left: Vec<String> =
            PIECES.iter().filter(|p| !divides(p)).map(|[r, c]| format!("{r}x{c}")).collect();
        if !left.is_empty() {
            info(format_args!("{side} pixels a side cannot be cut into {}: left out", left.join(", ")));
        }
    }
    all.sort_by_key(|[rows, columns]| rows * columns);
    Ok(all)
}

/// A head's number, or none for the mean of all.
pub(super) fn salience_head(text: &str) -> Result<Option<usize>> {
    match (text, text.parse()) {
        ("mean", _) => Ok(None),
        (_, Ok(head)) => Ok(Some(head)),
        _ => Err(Error::Usage(format!("--salience-head: `{}` is no number of a head, or mean", shown(text)))),
    }
}
