//! What a recipe asks for that a run of its length, on so many images, cannot give: said before the first step, each
//! with a setting that would fit. None of it is an error, since somebody may want just that.

use crate::poa::settings::{Centering, Settings, fitting_prototypes};

/// Rows that Sinkhorn-Knopp spreads over the prototypes: with fewer each has its own, whatever it shows.
const FEWEST_ROWS: usize = 32;
/// The teacher averages the student over at most this share of the run, or it keeps much of its random start.
const AVERAGED: f64 = 0.25;

/// What does not fit a run with these settings on `ranks` ranks, on `images` images where that is known.
pub fn advice(settings: &Settings, images: Option<usize>, ranks: usize) -> Vec<String> {
    let mut all = Vec::new();
    short_runs(settings, &mut all);
    prototypes(settings, images, &mut all);
    let each = settings.loading.batch_size_per_gpu;
    // it goes over the rows of all ranks
    let batch = each.saturating_mul(ranks);
    if settings.step.centering == Centering::SinkhornKnopp && batch < FEWEST_ROWS / 2 {
        let on = if ranks == 1 { String::new() } else { format!(" on each of {ranks} ranks") };
        all.push(format!(
            "train.batch_size_per_gpu is {each}{on}: Sinkhorn-Knopp makes the targets of {} crops at a time, too few to \
             tell which are alike (train.accumulation_steps does not help); take {} or more, or \
             train.centering=centering",
            2 * batch,
            (FEWEST_ROWS / 2).div_ceil(ranks)
        ));
    }
    all
}

/// Warm-ups and averages that are longer than the run.
fn short_runs(settings: &Settings, all: &mut Vec<String>) {
    let (steps, epochs) = (settings.total_steps(), settings.optim.epochs);
    let momentum = settings.teacher.momentum_teacher;
    let averaged = 1.0 / (1.0 - momentum).max(1e-12);
    if momentum < 1.0 && averaged > AVERAGED * steps as f64 {
        let fitting = fitting_momentum(steps);
        all.push(format!(
            "teacher.momentum_teacher is {momentum}: the teacher averages {averaged:.0} steps, and the run has {steps}, \
             so much of it stays random; {fitting} would fit"
        ));
    }
    let later = [
        (
            "teacher.warmup_teacher_temp_epochs",
            settings.teacher.warmup_teacher_temp_epochs,
            settings.teacher.warmup_teacher_temp != settings.teacher.teacher_temp,
            "teacher.teacher_temp is never reached",
        ),
        (
            "optim.ibot_activate_epochs",
            settings.activation.ibot_activate_epochs,
            settings.ibot.loss_weight > 0.0,
            "the masked-patch loss never counts",
        ),
    ];
    for (key, value, matters, what) in later {
        if matters && value >= epochs {
            let fitting = epochs / 10;
            all.push(format!("{key} is {value}, and optim.epochs {epochs}: {what}; {fitting} would fit"));
        }
    }
}

/// A momentum whose average is about a tenth of a run of so many steps.
pub fn fitting_momentum(steps: usize) -> f64 {
    let rest = 10.0 / (steps.max(20) as f64);
    let digit = 10f64.powf(rest.log10().floor());
    1.0 - (rest / digit).ceil() * digit
}

/// Numbers of prototypes that nothing can be learnt with.
fn prototypes(settings: &Settings, images: Option<usize>, all: &mut Vec<String>) {
    let mut sections = vec![("dino", &settings.dino.heads)];
    if settings.ibot.separate_head && settings.ibot.loss_weight > 0.0 {
        sections.push(("ibot", &settings.ibot.heads));
    }
    for (section, heads) in sections {
        let counts = &heads.head_n_prototypes;
        let most = counts.iter().copied().max().unwrap_or(0);
        if let Some(images) = images.filter(|images| section == "dino" && most > *images) {
            let fitting = fitting_prototypes(images, heads.head_bottleneck_dim);
            all.push(format!(
                "{section}.head_n_prototypes goes up to {most}, and there are {images} images: most prototypes stand \
                 for none of them; {fitting:?} would fit, and [] finds that by itself"
            ));
        }
        let (fewest, bottleneck) = (counts.iter().copied().min(), heads.head_bottleneck_dim);
        if let Some(fewest) = fewest.filter(|fewest| *fewest <= bottleneck) {
            all.push(format!(
                "{section}.head_n_prototypes has {fewest}, no more than the {bottleneck} channels of \
                 {section}.head_bottleneck_dim: one point can be equally near to so few prototypes, and all images end \
                 up there; a bottleneck of {} would fit",
                (fewest / 8).max(1)
            ));
        }
    }
}
