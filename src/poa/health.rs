//! Signs that a run learns nothing: a loss that stands still, targets that are uniform, features that are all
//! the same.

use std::collections::VecDeque;

use crate::poa::losses::Health;
use crate::poa::settings::Settings;

/// Share of the run over which the loss must move.
const WINDOW: f64 = 0.05;
/// At least so many reports make up that window.
const FEWEST_REPORTS: usize = 20;
/// A window in which the mean loss moves by less than this share of itself is flat.
const FLAT: f64 = 1e-3;
/// Late in a run a loss that stands still is no bad sign.
const LATE: f64 = 0.6;
/// Targets of more than this share of the largest entropy are uniform.
const UNIFORM: f64 = 0.99;
/// A class-token loss of more than this share of what guessing costs says that the heads tell no images apart.
const GUESSING: f64 = 0.997;
/// Features of less spread than this share of what is possible have collapsed.
const COLLAPSED: f64 = 0.05;
/// So many reports in a row make a warning, which is repeated after as many windows.
const IN_A_ROW: usize = 5;

/// Watches the numbers of a run, from report to report.
pub struct HealthMonitor {
    total: usize,
    /// Steps before which nothing is judged: the warm-up.
    from: usize,
    /// Reports of the last window: step and loss.
    losses: VecDeque<(usize, f64)>,
    uniform: Streak,
    guessing: Streak,
    collapsed: Streak,
    /// What the heads of this recipe would need to tell images apart.
    heads: String,
    flat_until: usize,
}

/// A bad sign seen in several reports in a row.
#[derive(Default)]
struct Streak {
    length: usize,
    warned: bool,
}

impl Streak {
    /// Counts a report; true where the sign has just become a habit.
    fn note(&mut self, bad: bool) -> bool {
        self.length = if bad { self.length + 1 } else { 0 };
        let news = self.length >= IN_A_ROW && !self.warned;
        // said once, and again only after it was better in between
        self.warned = bad && (self.warned || news);
        news
    }
}

impl HealthMonitor {
    /// A monitor for a run with these settings.
    pub fn new(settings: &Settings) -> Self {
        let warm_up = settings.steps_of_epochs(settings.optim.warmup_epochs);
        Self {
            total: settings.total_steps(),
            from: warm_up,
            losses: VecDeque::new(),
            uniform: Streak::default(),
            guessing: Streak::default(),
            heads: waking(settings),
            collapsed: Streak::default(),
            flat_until: 0,
        }
    }

    /// Judges the report of a step (from 0); returns the warnings to be shown, each with what to change.
    pub fn judge(&mut self, step: usize, loss: f64, health: Option<&Health>) -> Vec<String> {
        let mut warnings = Vec::new();
        let shown = step + 1;
        if step < self.from {
            return warnings;
        }
        if let Some(change) = self.flat(step, loss) {
            warnings.push(format!(
                "step {shown}: the loss moved by only {:.2}% over the last {} steps. If the k-NN accuracy does not rise \
                 either, raise optim.base_lr, or lower teacher.warmup_teacher_temp and teacher.teacher_temp",
                100.0 * change,
                self.window()
            ));
        }
        let Some(health) = health else { return warnings };
        let share = |h: &crate::poa::losses::HeadHealth| h.entropy / h.uniform;
        let sharpest = health.heads.iter().map(share).fold(f64::INFINITY, f64::min);
        if self.uniform.note(sharpest.is_finite() && sharpest > UNIFORM) {
            warnings.push(format!(
                "step {shown}: the targets are all but uniform ({:.1}% of the largest entropy), so there is nothing to \
                 learn from them. Lower teacher.teacher_temp, or take fewer prototypes (dino.head_n_prototypes)",
                100.0 * sharpest
            ));
        }
        let guessing = |h: &crate::poa::losses::HeadHealth| (h.entropy + h.kl) / h.uniform;
        let best = health.heads.iter().map(guessing).fold(f64::INFINITY, f64::min);
        // uniform targets leave nothing but guessing, and were named above
        if self.guessing.note(best.is_finite() && best > GUESSING && sharpest <= UNIFORM) {
            warnings.push(format!(
                "step {shown}: the class-token loss is {:.1}% of what guessing costs: the heads tell no images apart. {}",
                100.0 * best, self.heads
            ));
        }
        if self.collapsed.note(health.feature_std < COLLAPSED) {
            warnings.push(format!(
                "step {shown}: the features of all images are nearly the same (spread {:.3} of 1): they have collapsed. \
                 Raise dino.koleo_loss_weight, lower optim.base_lr, or raise teacher.momentum_teacher",
                health.feature_std
            ));
        }
        warnings
    }

    /// Steps over which the loss must move.
    fn window(&self) -> usize {
        (self.total as f64 * WINDOW) as usize
    }

    /// How much the mean loss moved between the halves of the last window, where that is too little.
    fn flat(&mut self, step: usize, loss: f64) -> Option<f64> {
        self.losses.push_back((step, loss));
        let window = self.window();
        while self.losses.len() > FEWEST_REPORTS && self.losses[1].0 + window <= step {
            self.losses.pop_front();
        }
        let first = self.losses.front().map_or(step, |l| l.0);
        let full = self.losses.len() >= FEWEST_REPORTS && first + window <= step;
        if !full || step < self.flat_until || step as f64 > LATE * self.total as f64 {
            return None;
        }
        let half = self.losses.len() / 2;
        let mean = |range: std::ops::Range<usize>| {
            let count = range.len() as f64;
            self.losses.range(range).map(|l| l.1).sum::<f64>() / count
        };
        let (before, after) = (mean(0..half), mean(half..self.losses.len()));
        let change = (after - before).abs() / before.abs().max(1e-12);
        (change < FLAT).then(|| {
            self.flat_until = step + 2 * window;
            change
        })
    }
}

/// Which settings of the heads keep them from telling images apart, in the order of their weight.
fn waking(settings: &Settings) -> String {
    let heads = &settings.dino.heads;
    let fewest = heads.head_n_prototypes.iter().copied().min().unwrap_or(0);
    let mut advice = Vec::new();
    if fewest <= 4 * heads.head_bottleneck_dim {
        advice.push("take more prototypes (dino.head_n_prototypes), or a lower dino.head_bottleneck_dim");
    }
    if heads.head_init_std > 0.0 {
        advice.push("set dino.head_init_std=0");
    }
    advice.push("lengthen optim.warmup_epochs, or lower teacher.teacher_temp");
    format!("If that goes on, {}", advice.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poa::losses::HeadHealth;

    fn monitor() -> HealthMonitor {
        let mut settings = Settings::default();
        (settings.optim.epochs, settings.optim.warmup_epochs, settings.train.total_steps) = (10, 1, 1000);
        HealthMonitor::new(&settings)
    }

    fn health(share: f64, feature_std: f64) -> Health {
        let uniform = 1024f64.ln();
        Health {
            heads: vec![HeadHealth { index: 0, entropy: share * uniform, uniform, kl: 1.0 }],
            feature_std,
        }
    }

    /// All warnings of a run with these numbers.
    fn warnings(number: impl Fn(usize) -> (f64, Health)) -> Vec<String> {
        let mut monitor = monitor();
        (0..1000)
            .step_by(2)
            .flat_map(|step| {
                let (loss, health) = number(step);
                monitor.judge(step, loss, Some(&health))
            })
            .collect()
    }

    #[test]
    fn a_run_that_learns_gets_no_warning() {
        let found = warnings(|step| (10.0 - step as f64 * 0.005, health(0.5, 0.4)));
        assert_eq!(found, Vec::<String>::new());
        // every network has a loss of its own
        let found = warnings(|step| (10.0 - step as f64 * 0.005 + (step % 7) as f64 * 0.1, health(0.5, 0.4)));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn heads_that_guess_are_named_with_what_wakes_them() {
        let uniform = 1024f64.ln();
        let guess = |kl: f64| {
            let head = HeadHealth { index: 0, entropy: 0.9 * uniform, uniform, kl: kl * uniform };
            Health { heads: vec![head], feature_std: 0.4 }
        };
        let found = warnings(|step| (10.0 - step as f64 * 0.005, guess(0.1)));
        assert!(found.len() == 1 && found[0].contains("dino.head_init_std=0"), "{found:?}");
        let found = warnings(|step| (10.0 - step as f64 * 0.005, guess(0.09)));
        assert_eq!(found, Vec::<String>::new());
        let mut settings = Settings::default();
        (settings.dino.heads.head_n_prototypes, settings.dino.heads.head_init_std) = (vec![256], 0.0);
        assert!(waking(&settings).contains("dino.head_bottleneck_dim"));
        assert!(!waking(&settings).contains("head_init_std"));
    }

    #[test]
    fn a_flat_loss_is_named_until_late_in_the_run() {
        let found = warnings(|step| (7.0 + (step % 3) as f64 * 1e-4, health(0.5, 0.4)));
        assert!(!found.is_empty() && found.len() < 10, "{found:?}");
        assert!(found.iter().all(|w| w.contains("optim.base_lr")), "{found:?}");
        let found = warnings(|step| ((10.0 - step as f64 * 0.01).max(3.5), health(0.5, 0.4)));
        assert_eq!(found, Vec::<String>::new(), "flat after 65% of the run");
    }

    #[test]
    fn uniform_targets_and_collapse_are_named_once_until_it_gets_better() {
        let loss = |step: usize| 10.0 - step as f64 * 0.005;
        let found = warnings(|step| (loss(step), health(0.999, 0.4)));
        assert!(found.len() == 1 && found[0].contains("teacher.teacher_temp"), "{found:?}");
        let found = warnings(|step| (loss(step), health(0.5, if step < 500 { 0.01 } else { 0.3 })));
        assert!(found.len() == 1 && found[0].contains("dino.koleo_loss_weight"), "{found:?}");
        let found =
            warnings(|step| (loss(step), health(0.5, if (400..500).contains(&step) { 0.3 } else { 0.01 })));
        assert_eq!(found.len(), 2, "{found:?}");
        // one bad report is chance, and the warm-up is not judged
        assert!(
            warnings(|step| (loss(step), health(0.5, if step % 20 < 4 { 0.01 } else { 0.3 }))).is_empty()
        );
        assert!(warnings(|step| (loss(step), health(if step < 100 { 1.0 } else { 0.5 }, 0.3))).is_empty());
    }
}
