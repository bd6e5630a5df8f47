//! What a run tells of a step once it is settled: a function of seed, settings and device alone, but for what
//! depends on the clock.

use serde_json::{Value, json};

use crate::error::Result;
use crate::optim::adamw::GradientReport;
use crate::optim::loss_scale;
use crate::train::metrics::number;
use crate::train::progress::Shown;
use crate::train::step::Settled;
use crate::train::task::{Numbers, Task};
use crate::train::trainer::{StepFacts, Trainer};

impl<T: Task> Trainer<T> {
    /// Counts a step that was skipped; writes the numbers of one that is due to the logs, and warns where
    /// they look bad.
    pub(super) fn note(&mut self, settled: Option<Settled<StepFacts<T>>>) -> Result<()> {
        let Some(Settled { report, mut facts }) = settled else { return Ok(()) };
        if report.finite {
            self.skipped.1 = 0;
        } else {
            self.skipped = (self.skipped.0 + 1, self.skipped.1 + 1);
            self.tell_skipped(&facts, report.loss_scale);
        }
        if facts.records.is_empty() {
            self.reports.progress.step(facts.step + 1, None, facts.settings.lr);
            return Ok(());
        }
        let records = std::mem::take(&mut facts.records);
        let numbers = self.task.numbers(&facts.plan, records)?;
        self.report(&facts, &report, numbers);
        Ok(())
    }

    /// Says that a step was skipped. In mixed precision that is how the loss scale finds its level, until it
    /// is down to 1.
    fn tell_skipped(&mut self, s: &StepFacts<T>, loss_scale: Option<f64>) {
        if let Some(scale) = loss_scale.filter(|scale| *scale > 1.0) {
            let next = scale * loss_scale::BACKOFF as f64;
            return self.reports.note(&format!(
                "step {}: gradients are more than half precision holds; the step is skipped, the loss scale falls to {next}",
                s.step + 1
            ));
        }
        let of_task = self.task.describe(&s.plan).map_or_else(String::new, |text| format!("{text}, "));
        self.reports.warn(&format!(
            "step {}: loss or gradients are not finite; the step is skipped ({of_task}learning rate {:.2e}). If this goes \
             on, lower {}",
            s.step + 1,
            s.settings.lr,
            self.task.learning_rate_key()
        ));
    }

    fn report(&mut self, facts: &StepFacts<T>, report: &GradientReport, numbers: Numbers) {
        let (done, lr, loss) = (facts.step + 1, facts.settings.lr, numbers.loss);
        let seconds = self.started.elapsed().as_secs_f64();
        let waited = self.task.waited().as_secs_f64();
        let waiting = waited / seconds.max(1e-9);
        self.reports.progress.step(done, Some(Shown { loss, waiting }), lr);
        let pace = self.reports.progress.images_per_second();
        let mut time = vec![
            ("images_per_second", pace),
            ("elapsed", self.earlier.as_secs_f64() + seconds),
            ("waited_for_images", waited),
            ("waiting_share", waiting),
            ("left", self.reports.progress.left(done).as_secs_f64()),
        ];
        time.extend(self.task.clock_numbers());
        let seen = self.seen(done);
        let epoch = seen as f64 / self.task.samples() as f64;
        let mut values = self.values(facts, report, &numbers, seen, epoch);
        values.extend(numbers.values);
        self.reports.values(facts.step, &values, &time);
        let line = format!(
            "step {done}/{}: loss {loss:.4}, lr {lr:.2e}, epoch {epoch:.2}, {pace:.1} images/s, {:.0}% waiting for images",
            self.plan.steps,
            100.0 * waiting
        );
        match self.reports.progress.has_lines() {
            true => self.reports.keep(&line),
            false => self.reports.note(&line),
        }
        for warning in numbers.warnings {
            self.reports.warn(&warning);
        }
    }

    /// Samples that the first `done` steps were trained on: those of earlier processes may have been others.
    pub(super) fn seen(&self, done: usize) -> u64 {
        let own = done.saturating_sub(self.first) as u64;
        self.seen_before + own * self.task.samples_per_step() as u64
    }

    /// The numbers that every task has.
    fn values(
        &mut self,
        facts: &StepFacts<T>,
        report: &GradientReport,
        numbers: &Numbers,
        seen: u64,
        epoch: f64,
    ) -> Vec<(String, Value)> {
        let trained = self.task.trained();
        let s = &facts.settings;
        let mut all: Vec<(String, Value)> = vec![
            ("loss".into(), number(numbers.loss)),
            ("lr".into(), number(s.lr)),
            ("weight_decay".into(), number(s.weight_decay)),
            ("skipped".into(), json!(self.skipped.0)),
            ("images".into(), json!(seen)),
            ("epoch".into(), number(epoch)),
        ];
        all.extend(trained.teacher.map(|_| ("teacher_momentum".into(), number(s.teacher_momentum))));
        all.extend(report.loss_scale.map(|scale| ("loss_scale".into(), number(scale))));
        let modules = trained.parameters.values().layout().modules().iter();
        all.extend(modules.zip(&report.norms).map(|(m, norm)| (format!("grad_norm.{m}"), number(*norm))));
        all
    }
}
