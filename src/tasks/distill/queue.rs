//! The teacher's embeddings of earlier images, which both sides are compared with.

use rand::{Rng, RngExt};

use crate::collective::Collective;
use crate::error::Result;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Device, Tensor, copy};

/// A ring of embeddings: the oldest make room for new ones. Its tensors are state of a run.
pub struct Queue {
    /// `[K, width]`, rows of length one.
    pub entries: Tensor,
    /// `[1]`: the row that is written next, as a number that single precision has.
    pub next: Tensor,
}

/// Embeddings that are on their way into a queue.
pub enum Arriving {
    /// This rank's alone, on the device.
    Own(Tensor),
    /// Those of all ranks in their order, on the host, and how many there are.
    All(Vec<f32>, usize),
}

impl Queue {
    /// A queue of `length` random directions; `number` tells the queues of a run apart.
    pub fn new(device: &Device, [length, width]: [usize; 2], seed: u64, number: u64) -> Result<Self> {
        let mut rng = stream(seed, Purpose::Queue, number, 0);
        let mut values = Vec::with_capacity(length * width);
        for _ in 0..length {
            let row: Vec<f64> = (0..width).map(|_| normal(&mut rng)).collect();
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            values.extend(row.iter().map(|v| (v / norm) as f32));
        }
        let entries = Tensor::from_slice(device, &[length, width], &values)?;
        Ok(Self { entries, next: Tensor::zeros(device, &[1], DType::F32)? })
    }

    /// Takes the rows `[n, width]` of this rank to the others. With several ranks it waits for the device.
    pub fn gather(ranks: &Collective, rows: &Tensor) -> Result<Arriving> {
        if ranks.is_alone() {
            return Ok(Arriving::Own(rows.clone()));
        }
        let own: Vec<f32> = rows.to_vec()?;
        let all = ranks.gather(bytemuck::cast_slice(&own).to_vec())?;
        let mut values: Vec<f32> = Vec::with_capacity(own.len() * all.len());
        all.iter().for_each(|of| values.extend(bytemuck::pod_collect_to_vec::<u8, f32>(of)));
        let count = values.len() / rows.dim(1).max(1);
        Ok(Arriving::All(values, count))
    }

    /// Puts new rows in place of the oldest: of more than the queue has rows, the last ones. `next` is the row that the
    /// first goes to; returns the one after the last.
    pub fn take(&self, arriving: Arriving, next: usize) -> Result<usize> {
        let (length, width) = (self.entries.dim(0), self.entries.dim(1));
        let rows = match arriving {
            Arriving::Own(rows) => rows,
            Arriving::All(values, count) => {
                Tensor::from_slice(self.entries.device(), &[count, width], &values)?
            }
        };
        let count = rows.dim(0);
        let (mut from, mut to) = (count.saturating_sub(length), next % length);
        while from < count {
            let some = (count - from).min(length - to);
            copy(&self.entries.slice(0, to..to + some)?, &rows.slice(0, from..from + some)?)?;
            (from, to) = (from + some, (to + some) % length);
        }
        self.next.upload(&[to as f32])?;
        Ok(to)
    }
}

/// A standard normal value (Box-Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
