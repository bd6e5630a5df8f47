//! What a run does about images that cannot be used: it names them in a file, tells of new ones, and ends where they are
//! too many.

use crate::collective::Collective;
use crate::data::bad_samples::BadSample;
use crate::data::bad_samples_file::BadSamplesFile;
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::train::reports::Reports;

/// Tells of the images that this rank and others have newly `found`, of `images` in all. More than the share `allowed` of
/// them are an error. `bad` is the first rank's list.
pub fn tell_new(
    found: Vec<BadSample>,
    ranks: &Collective,
    bad: Option<&mut BadSamplesFile>,
    (images, allowed): (usize, f64),
    reports: &mut Reports,
) -> Result<()> {
    let found = BadSample::of_all_ranks(found, ranks)?;
    let Some(bad) = bad.filter(|_| !found.is_empty()) else { return Ok(()) };
    match bad.add(&found) {
        Ok(false) => return Ok(()),
        Ok(true) => {}
        Err(e) => reports.warn(&format!("{e}; training goes on")),
    }
    let (count, summary, path) = (bad.len(), bad.summary(), shown(bad.path()));
    reports.say(&format!("{count} unusable images left out so far ({summary}); {path} names them"));
    if count as f64 > allowed * images as f64 {
        return Err(Error::config(
            "data.max_bad_fraction",
            format!(
                "{count} of {images} images are unusable ({summary}), more than the {allowed} that is allowed; \
                 {path} names them"
            ),
        ));
    }
    Ok(())
}

/// Says how many of the `images` to be judged by cannot be used, where there are more than when it was last `told`. More than the
/// share `allowed` of them are an error.
pub fn tell_left_out(
    bad: &[BadSample],
    told: &mut usize,
    (images, allowed): (usize, f64),
    reports: &mut Reports,
) -> Result<()> {
    let count = bad.len();
    let Some(first) = bad.first().filter(|_| count > *told) else { return Ok(()) };
    *told = count;
    let text = format!(
        "{count} of {images} images to be judged by cannot be used and are left out, such as {}: {}",
        shown(&first.name),
        shown(&first.reason)
    );
    if count as f64 > allowed * images as f64 {
        return Err(Error::config("data.max_bad_fraction", format!("is {allowed}: {text}")));
    }
    reports.warn(&text);
    Ok(())
}

/// The error that ends a run for its images, with the list that names them.
pub fn with_list(e: Error, found: &[BadSample], bad: Option<&mut BadSamplesFile>) -> Error {
    if found.is_empty() || !matches!(e, Error::File { .. }) {
        return e;
    }
    let Some(bad) = bad else { return e };
    match bad.add(found) {
        Ok(_) => e.and(format!("{}; {} names them", bad.summary(), shown(bad.path()))),
        Err(problem) => e.and(problem),
    }
}
