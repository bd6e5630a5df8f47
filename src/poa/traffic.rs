//! What the ranks of a run send each other in a step. It follows from the settings alone: not from the sub-networks, and
//! not from how many patches are masked.

use crate::collective::SumCost;
use crate::error::Result;
use crate::gpu::Caps;
use crate::poa::PoaModel;
use crate::poa::settings::{Centering, Settings};
use crate::tensor::Device;
use crate::train::gradient_sum::lists_of;

/// Sums over ranks of a kind, in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many lists are added up.
    pub lists: usize,
    /// Bytes of these lists, on each rank.
    pub bytes: usize,
    /// Messages that rank 0 sends for them.
    pub messages: usize,
    /// Bytes of these messages.
    pub sent: usize,
}

impl Sums {
    fn of(lists: impl IntoIterator<Item = usize>, bytes: usize, ranks: usize) -> Self {
        let mut all = Self::default();
        for count in lists {
            let cost = SumCost::of(count, bytes, 0, ranks);
            all.lists += 1;
            all.bytes += count * bytes;
            all.messages += cost.exchanges * ranks.saturating_sub(1);
            all.sent += cost.sent;
        }
        all
    }

    fn and(self, other: Self) -> Self {
        Self {
            lists: self.lists + other.lists,
            bytes: self.bytes + other.bytes,
            messages: self.messages + other.messages,
            sent: self.sent + other.sent,
        }
    }

    fn describe(&self) -> String {
        format!("{} in {}", size(self.bytes), self.lists)
    }
}

/// What ranks send each other in a step. Two gathers of decisions, each of some dozens of bytes, come on top, and the
/// losses of a step that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Number of ranks.
    pub ranks: usize,
    /// Gradients, which travel while the way back goes on.
    pub gradients: Sums,
    /// What the teacher's targets are normalised by: columns of Sinkhorn-Knopp, an iteration after the other, or centres.
    /// They are waited for.
    pub targets: Sums,
    /// Losses, and which modules got a gradient.
    pub flags: Sums,
}

impl Traffic {
    /// The traffic of a step with masks, of a run with resolved settings on so many ranks, which have adapters with these
    /// capabilities.
    pub fn of(settings: &Settings, caps: &Caps, ranks: usize) -> Result<Self> {
        let model = PoaModel::new(settings, &Device::rehearsal(caps), settings.train.seed)?;
        let modules = model.student.touched_modules().len();
        let masks = settings.ibot.loss_weight > 0.0 && settings.ibot_start_step() < settings.total_steps();
        let (mut columns, mut kinds) = (0, 0);
        // of a second teacher's targets, which are of class tokens alone
        let mut second = 0;
        for head in &model.heads {
            let own = usize::from(head.part.has_cls()) + usize::from(head.part.has_masked() && masks);
            columns += own * head.projection.sizes.prototypes;
            kinds += own;
            if model.settings.weights.second_teacher > 0.0 && head.part.has_cls() {
                second += head.projection.sizes.prototypes;
            }
        }
        let batches = settings.plan().accumulation;
        let targets = match settings.step.centering {
            // with the means travels which of them a rank has
            Centering::Centering => Sums::of(vec![columns + kinds; batches], size_of::<f32>(), ranks),
            Centering::SinkhornKnopp => {
                let each = [columns, second].into_iter().filter(|columns| *columns > 0);
                let lists =
                    each.flat_map(|columns| vec![columns; batches * model.settings.sinkhorn_iterations]);
                Sums::of(lists, size_of::<f64>(), ranks)
            }
        };
        Ok(Self {
            ranks,
            gradients: Sums::of(lists_of(model.student.values().layout()), size_of::<f32>(), ranks),
            targets,
            flags: Sums::of([1 + modules], size_of::<f32>(), ranks),
        })
    }

    /// All of it.
    pub fn all(&self) -> Sums {
        self.gradients.and(self.targets).and(self.flags)
    }

    /// In a line.
    pub fn describe(&self) -> String {
        let all = self.all();
        format!(
            "gradients {} lists, targets {}, flags {}; a rank of {} sends {} in {} messages",
            self.gradients.describe(),
            self.targets.describe(),
            self.flags.describe(),
            self.ranks,
            size(all.sent),
            all.messages
        )
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}
