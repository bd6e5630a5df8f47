//! The loss of a student that should be as similar to a queue of others as its teacher is (SEED, Fang et al. 2021): row by
//! row the cross-entropy of softmax(s·Qᵀ/τs) against softmax(t·Qᵀ/τt), where Q holds K earlier rows of the teacher and, in
//! front of its own row alone, t itself. All rows have length one.
//!
//! The similarities `[n, K + 1]` of both never exist as a whole: rows are taken in pieces whose similarities fit a budget.
//! The targets are those of [`centering`] without a centre, so the largest is subtracted before anything is divided by a
//! small τt, and the loss is [`CrossEntropy`]'s.

use crate::error::{Error, Result};
use crate::ops::cross_entropy::{CrossEntropy, NO_TARGET, RowTargets, row_table};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::ops::sinkhorn::{centering, even_ranges};
use crate::profile;
use crate::tensor::{DType, Device, ELEMENT_BYTES, Tensor};

const NAME: &str = "queue_distillation";

/// Rows of a student, those of its teacher, and the queue that both are compared with.
pub struct QueueDistillation<'a> {
    /// `[n, D]`, rows of length one.
    pub student: &'a Tensor,
    /// `[n, D]`: the teacher's rows for the same crops.
    pub teacher: &'a Tensor,
    /// `[K, D]`
    pub queue: &'a Tensor,
    /// τs.
    pub student_temp: f64,
    /// τt.
    pub teacher_temp: f64,
    /// Bytes that the similarities of one side may take at a time; two such buffers live. `None`: what suits the device.
    pub budget: Option<usize>,
}

impl QueueDistillation<'_> {
    /// `loss` `[1]` (+)= the mean over the rows; `gradient` `[n, D]` gets `share` times the mean's gradient of the student's rows.
    pub fn run(&self, loss: &Tensor, accumulate: bool, gradient: &Tensor, share: f64) -> Result<()> {
        let _span = profile::operation(NAME);
        let (n, d) = self.check(gradient)?;
        let (device, queued) = (self.student.device(), self.queue.dim(0));
        let columns = queued + 1;
        // rows begin where vectors of four may
        let stride = columns.next_multiple_of(4);
        let default = if matches!(device, Device::Cpu(_)) { 16 << 20 } else { 64 << 20 };
        let bytes = self.budget.unwrap_or(default).min(device.max_tensor_bytes());
        let pieces = even_ranges(0..n, bytes / (stride * ELEMENT_BYTES));
        let longest = pieces.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let buffer = || Tensor::empty(device, &[longest, stride], DType::F32)?.slice(1, 0..columns);
        let (own, wanted) = (buffer()?, buffer()?);
        let no_centre = Tensor::zeros(device, &[columns], DType::F32)?;
        let losses = Tensor::empty(device, &[n, 2], DType::F32)?;
        let weight = (share / n as f64) as f32;
        for rows in pieces {
            let count = rows.len();
            let [own, wanted] = [&own, &wanted].map(|all| all.slice(0, 0..count));
            let (own, wanted) = (own?, wanted?);
            let [student, teacher] = [self.student, self.teacher].map(|all| all.slice(0, rows.clone()));
            let (student, teacher) = (student?, teacher?);
            for (of, to) in [(&student, &own), (&teacher, &wanted)] {
                let queue = Matrix::new(self.queue)?.t();
                product(&Matrix::new(of)?, &queue, &Matrix::new(&to.slice(1, 0..queued)?)?, false)?;
                // each row by the teacher's own
                let (a, b) = (of.reshape(&[count, 1, d])?, teacher.reshape(&[count, 1, d])?);
                let last = to.slice(1, queued..columns)?.reshape(&[count, 1, 1])?;
                product(&Matrix::new(&a)?, &Matrix::new(&b)?.t(), &Matrix::new(&last)?, false)?;
            }
            let targets = centering(vec![wanted], &no_centre, self.teacher_temp)?;
            let table: Vec<RowTargets> = (0..count as u32)
                .map(|row| RowTargets { rows: [row, NO_TARGET], weight, distill: 0.0 })
                .collect();
            CrossEntropy {
                logits: &own,
                partner: None,
                targets: &targets,
                chunks: [0, 0],
                table: &row_table(device, &table)?,
                losses: &losses.slice(0, rows.clone())?,
                temperature: self.student_temp,
                gradient: true,
            }
            .run()?;
            // the gradient has taken the place of the similarities
            let to = gradient.slice(0, rows)?;
            let (of_queue, of_own) = (own.slice(1, 0..queued)?, own.slice(1, queued..columns)?);
            product(&Matrix::new(&of_queue)?, &Matrix::new(self.queue)?, &Matrix::new(&to)?, false)?;
            let (a, b) = (of_own.reshape(&[count, 1, 1])?, teacher.reshape(&[count, 1, d])?);
            let to = to.reshape(&[count, 1, d])?;
            product(&Matrix::new(&a)?, &Matrix::new(&b)?, &Matrix::new(&to)?, true)?;
        }
        column_sum(&losses.slice(1, 0..1)?, loss, 1.0 / n as f32, accumulate)
    }

    /// The number of rows and their width.
    fn check(&self, gradient: &Tensor) -> Result<(usize, usize)> {
        let shape = self.student.shape();
        let alike = [self.teacher, gradient].iter().all(|t| t.shape() == shape && t.rows(NAME).is_ok());
        let queue = self.queue.shape();
        let temperatures = self.student_temp > 0.0 && self.teacher_temp > 0.0;
        match *shape {
            [n, d] if n > 0 && alike && queue.len() == 2 && queue[0] > 0 && queue[1] == d && temperatures => {
                Ok((n, d))
            }
            _ => Err(Error::shape(
                NAME,
                format!(
                    "rows {:?} and {:?}, their gradient {gradient:?}, a queue {:?}, temperatures {} and {}",
                    self.student, self.teacher, self.queue, self.student_temp, self.teacher_temp
                ),
            )),
        }
    }
}

/// Similarities are divided by small temperatures: no product of them is rounded.
fn product(a: &Matrix, b: &Matrix, c: &Matrix, accumulate: bool) -> Result<()> {
    matmul(a, b, c, &Options { accumulate, exact: true, ..Options::default() })
}
