//! AdamW split over ranks: a rank measures and updates its part of the parameters, all get each other's, and what
//! is left of the pass, the moving average and the gradients' zeroing, goes over all of them. Every element goes
//! through the arithmetic of the whole pass, so the split changes no bit. Moments are read and written by rank 0
//! through the ranks that have them.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cpu::{Arch, Places, RowsMut, par_parts};
use crate::error::{Error, Result};
use crate::nn::parameters::{BLOCK, FlatBuffers, NORM_BLOCK, Parameters, Place};
use crate::optim::adamw::{
    AdamW, AdamWParams, Also, FOLLOW, SQUARE_SUMS, UPDATE, WG, kernel, move_average, update_block,
};
use crate::optim::shard::Shard;
use crate::tensor::{DType, Device, Tensor};

/// One of AdamW's moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The mean of gradients.
    First,
    /// The mean of their squares.
    Second,
}

/// What rank 0 asks of the others.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Request {
    moment: Moment,
    /// The parameter's number.
    place: usize,
    /// Whether its values are to be written, and are sent.
    writes: bool,
}

impl AdamW {
    /// Σ g² of all norm blocks on a GPU, each from the rank that has it.
    pub(super) fn square_sums_of_own(&self, shard: &Shard, gradients: &FlatBuffers) -> Result<Tensor> {
        let device = self.control.device();
        let Device::Gpu(gpu) = device else { unreachable!("the CPU sums by itself") };
        let own = Tensor::empty(device, &[shard.count().max(1)], DType::F32)?;
        let mut at = own.layout().offset;
        for (i, buffer) in gradients.buffers().iter().enumerate() {
            let blocks = shard.blocks(i).len();
            if blocks == 0 {
                continue;
            }
            let params = AdamWParams { count: blocks, partial_offset: at, ..Default::default() };
            let kernel = kernel(SQUARE_SUMS, Also { own: true, ..Also::default() });
            gpu.dispatch(&kernel, &[&own, buffer, shard.places(i)], &params, gpu.caps().grid(blocks))?;
            at += blocks;
        }
        let own = match (device.is_rehearsal(), shard.count()) {
            (true, _) | (_, 0) => Vec::new(),
            _ => own.to_vec::<f32>()?,
        };
        let all = shard.numbers_of_all(own)?;
        Tensor::from_slice(device, &[all.len()], &all)
    }

    /// Updates values and moments of this rank's part, where everything was finite.
    pub(super) fn update_own(
        &self,
        shard: &Shard,
        student: &Parameters,
        gradients: &FlatBuffers,
        table: &[[f32; 4]],
        c: AdamWParams,
    ) -> Result<()> {
        let device = self.control.device();
        let Device::Gpu(gpu) = device else {
            return self.update_own_cpu(shard, student, gradients, table, c);
        };
        let flat: Vec<f32> = table.iter().flatten().copied().collect();
        let table = Tensor::from_slice(device, &[flat.len()], &flat)?;
        for (i, p) in student.values().buffers().iter().enumerate() {
            let count = shard.blocks(i).len() * NORM_BLOCK;
            if count == 0 {
                continue;
            }
            let tensors = [
                p,
                &gradients.buffers()[i],
                &self.m.buffers()[i],
                &self.v.buffers()[i],
                &self.block_parameter[i],
                &table,
                &self.control,
                shard.places(i),
            ];
            let grid = gpu.caps().grid((count / 4).div_ceil(WG as usize));
            let kernel = kernel(UPDATE, Also { own: true, ..Also::default() });
            gpu.dispatch(&kernel, &tensors, &AdamWParams { count, ..c }, grid)?;
        }
        Ok(())
    }

    fn update_own_cpu(
        &self,
        shard: &Shard,
        student: &Parameters,
        gradients: &FlatBuffers,
        table: &[[f32; 4]],
        c: AdamWParams,
    ) -> Result<()> {
        let control = &*self.control.cpu_read::<f32>("adamw")?;
        if control[0] != 1.0 {
            return Ok(());
        }
        let arch = Arch::get();
        for (i, p) in student.values().buffers().iter().enumerate() {
            let (own, blocks) = (shard.blocks(i), &*self.block_parameter[i].cpu_read::<u32>("adamw")?);
            let places = Places::new("adamw", own, p.elements() / NORM_BLOCK)?;
            let g = &*gradients.buffers()[i].cpu_read::<f32>("adamw")?;
            let [mut p, mut m, mut v] = {
                let [m, v] = [&self.m, &self.v].map(|all| all.buffers()[i].cpu_write::<f32>("adamw"));
                [p.cpu_write::<f32>("adamw")?, m?, v?]
            };
            let [p, m, v] = [&mut p, &mut m, &mut v].map(|all| RowsMut::dense(all, NORM_BLOCK));
            par_parts((p.scattered(&places), m, v)).for_each(|(at, (p, m, v))| {
                let Some(p) = p else { return };
                let first = own[at] as usize * NORM_BLOCK;
                let g = &g[first..first + NORM_BLOCK];
                arch.run(
                    #[inline(always)]
                    |_| {
                        for start in (0..NORM_BLOCK).step_by(BLOCK) {
                            let parameter = blocks[(first + start) / BLOCK] as usize;
                            let Some(&[lr, keep, touched, module]) = table.get(parameter) else { continue };
                            let clip = control[2 + 2 * module as usize];
                            let range = start..start + BLOCK;
                            let (p, g) = (&mut p[range.clone()], &g[range.clone()]);
                            let (m, v) = (&mut m[range.clone()], &mut v[range]);
                            if touched != 0.0 {
                                update_block(p, g, m, v, [lr, keep, clip], c);
                            }
                        }
                    },
                );
            });
        }
        Ok(())
    }

    /// What is left when all values are updated: the teacher's moving average, the values in half precision, and
    /// the gradients' zeroing.
    pub(super) fn follow(
        &self,
        student: &Parameters,
        gradients: &FlatBuffers,
        teacher: Option<&FlatBuffers>,
        c: AdamWParams,
    ) -> Result<()> {
        let Device::Gpu(gpu) = self.control.device() else {
            return self.follow_cpu(student, gradients, teacher, c);
        };
        for (i, p) in student.values().buffers().iter().enumerate() {
            let mut tensors = vec![p, &gradients.buffers()[i], &self.control];
            let halves = self.mixed.as_ref();
            tensors.extend(teacher.map(|t| &t.buffers()[i]));
            tensors.extend(halves.map(|m| &m.student.buffers()[i]));
            tensors.extend(halves.and_then(|m| m.teacher.as_ref()).map(|t| &t.buffers()[i]));
            let count = p.elements();
            let grid = gpu.caps().grid((count / 4).div_ceil(WG as usize));
            let also = Also { mixed: halves.is_some(), teacher: teacher.is_some(), own: false };
            gpu.dispatch(&kernel(FOLLOW, also), &tensors, &AdamWParams { count, ..c }, grid)?;
        }
        Ok(())
    }

    fn follow_cpu(
        &self,
        student: &Parameters,
        gradients: &FlatBuffers,
        teacher: Option<&FlatBuffers>,
        c: AdamWParams,
    ) -> Result<()> {
        let finite = self.control.cpu_read::<f32>("adamw")?[0] == 1.0;
        let arch = Arch::get();
        for (i, p) in student.values().buffers().iter().enumerate() {
            let p = &*p.cpu_read::<f32>("adamw")?;
            let mut g = gradients.buffers()[i].cpu_write::<f32>("adamw")?;
            let mut averages = teacher.map(|t| t.buffers()[i].cpu_write::<f32>("adamw")).transpose()?;
            let averages = averages.as_mut().map(|all| RowsMut::dense(all, NORM_BLOCK));
            par_parts((RowsMut::dense(&mut g, NORM_BLOCK), averages)).for_each(|(at, (g, average))| {
                g.fill(0.0);
                if let Some(average) = average.filter(|_| finite) {
                    let p = &p[at * NORM_BLOCK..(at + 1) * NORM_BLOCK];
                    arch.run(
                        #[inline(always)]
                        |_| move_average(average, p, c.ema),
                    );
                }
            });
        }
        self.round(student, teacher)
    }

    /// A parameter's moment. Where the optimiser is split over ranks, rank 0 alone may ask for it, while the others
    /// [attend](Self::attend).
    pub fn read_moment(&self, moment: Moment, name: &str) -> Result<Vec<f32>> {
        let Some(shard) = &self.shard else { return self.moment(moment).read(name) };
        let request = Request { moment, place: self.m.layout().index(name)?, writes: false };
        shard.ranks().hear_first(Some(request))?;
        let place = &self.m.layout().places()[request.place];
        let mut values = vec![0.0; place.range.len()];
        for (rank, own) in shard.ranks().gather_first(self.own(shard, moment, place)?)?.iter().enumerate() {
            let own: Vec<f32> = bytemuck::pod_collect_to_vec(own);
            let mut from = 0;
            for piece in shard.pieces(rank, place) {
                let to = from + piece.of_parameter.len();
                let own = own.get(from..to).ok_or_else(|| out_of_step(&place.spec.name))?;
                values[piece.of_parameter].copy_from_slice(own);
                from = to;
            }
        }
        Ok(values)
    }

    /// Overwrites a parameter's moment; of several ranks likewise.
    pub fn write_moment(&self, moment: Moment, name: &str, values: &[f32]) -> Result<()> {
        let Some(shard) = &self.shard else { return self.moment(moment).write(name, values) };
        let request = Request { moment, place: self.m.layout().index(name)?, writes: true };
        shard.ranks().hear_first(Some(request))?;
        shard.ranks().broadcast(bytemuck::cast_slice(values).to_vec())?;
        self.set_own(shard, request, values)
    }

    /// To be called by all ranks at once where the optimiser is split over them: rank 0 lets the others go, which do
    /// until then what it asks for by [`Self::read_moment`] and [`Self::write_moment`]. Nothing otherwise.
    pub fn attend(&self) -> Result<()> {
        let Some(shard) = &self.shard else { return Ok(()) };
        while let Some(request) = shard.ranks().hear_first(None::<Request>)? {
            let place = self.m.layout().places().get(request.place);
            let place = place.ok_or_else(|| out_of_step("a parameter"))?;
            if request.writes {
                let values = shard.ranks().broadcast(Vec::new())?;
                self.set_own(shard, request, &bytemuck::pod_collect_to_vec::<u8, f32>(&values))?;
            } else {
                shard.ranks().gather_first(self.own(shard, request.moment, place)?)?;
            }
        }
        Ok(())
    }

    fn moment(&self, moment: Moment) -> &FlatBuffers {
        match moment {
            Moment::First => &self.m,
            Moment::Second => &self.v,
        }
    }

    /// What this rank has of a parameter's moment.
    fn own(&self, shard: &Shard, moment: Moment, place: &Place) -> Result<Vec<u8>> {
        let mut own = Vec::new();
        for piece in shard.pieces(shard.share().rank, place) {
            let range = piece.start..piece.start + piece.of_parameter.len();
            let values = self.moment(moment).buffers()[place.buffer].slice(0, range)?.to_vec::<f32>()?;
            own.extend_from_slice(bytemuck::cast_slice(&values));
        }
        Ok(own)
    }

    /// Takes what belongs to this rank of a parameter's moment.
    fn set_own(&self, shard: &Shard, request: Request, values: &[f32]) -> Result<()> {
        let place = &self.m.layout().places()[request.place];
        for piece in shard.pieces(shard.share().rank, place) {
            let range = piece.start..piece.start + piece.of_parameter.len();
            let values = values.get(piece.of_parameter).ok_or_else(|| out_of_step(&place.spec.name))?;
            self.moment(request.moment).buffers()[place.buffer].slice(0, range)?.upload(values)?;
        }
        Ok(())
    }
}

fn out_of_step(name: &str) -> Error {
    Error::Ranks(format!(
        "ranks are out of step: the moments of {name} have other sizes there; this is an error of the program"
    ))
}
