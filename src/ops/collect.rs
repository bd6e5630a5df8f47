//! Rows collected from several matrices, each row as often as wanted: the tokens of a map, of which several may stand for
//! the same pixel. The gradient of a row is the sum over all places that it went to, in their order.

use crate::autograd::{Tape, Var};
use crate::cpu::{SyncPtr, for_rows, pieces};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::elementwise::WG;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = Shader { name: "collect.wgsl", source: include_str!("../../shaders/collect.wgsl") };

params!(CollectParams {
    rows: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    place_offset: u32,
    index_offset: u32,
    accumulate: u32,
});

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new::<CollectParams>(SHADER, entry, vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel("collect"), kernel("give_back")]
}

/// Which rows of a matrix go where.
struct Picks {
    /// Rows of the output, sorted by the row they come from.
    places: Tensor,
    /// The rows they come from.
    rows: Tensor,
    /// For every row of the matrix where its places begin, and the end.
    starts: Tensor,
}

impl Picks {
    /// Of a matrix of `count` rows.
    fn new(device: &Device, count: usize, mut picks: Vec<(u32, u32)>) -> Result<Self> {
        picks.sort_unstable();
        let rows: Vec<u32> = picks.iter().map(|(row, _)| *row).collect();
        let places: Vec<u32> = picks.iter().map(|(_, place)| *place).collect();
        let mut starts = vec![0u32; count + 1];
        rows.iter().for_each(|row| starts[*row as usize + 1] += 1);
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let upload = |values: &[u32]| Tensor::from_slice(device, &[values.len()], values);
        Ok(Self { places: upload(&places)?, rows: upload(&rows)?, starts: upload(&starts)? })
    }

    fn params(&self, out: &Tensor, x: &Tensor, index: &Tensor, rows: usize) -> Result<CollectParams> {
        let (ro, rx) = (out.rows("collect_rows")?, x.rows("collect_rows")?);
        Ok(CollectParams {
            rows: rows as u32,
            cols: ro.cols as u32,
            out_offset: ro.offset as u32,
            out_stride: ro.stride as u32,
            x_offset: rx.offset as u32,
            x_stride: rx.stride as u32,
            place_offset: self.places.layout().offset as u32,
            index_offset: index.layout().offset as u32,
            accumulate: 0,
        })
    }

    /// out[places[i]] = x[rows[i]]
    fn collect(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        let (rx, ro) = (x.rows("collect_rows")?, out.rows("collect_rows")?);
        let count = self.places.elements();
        match out.device() {
            Device::Cpu(_) => {
                let (x, rows, places) = (x.cpu::<f32>(), self.rows.cpu::<u32>(), self.places.cpu::<u32>());
                let to = SyncPtr(out.cpu_mut::<f32>().as_mut_ptr());
                pieces(count, ro.cols, |range| {
                    for i in range {
                        // SAFETY: every place is named once.
                        let to = unsafe { to.slice(places[i] as usize * ro.stride, ro.cols) };
                        to.copy_from_slice(&x[rows[i] as usize * rx.stride..][..rx.cols]);
                    }
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = self.params(out, x, &self.rows, count)?;
                let grid = gpu.caps().grid((count * ro.cols).div_ceil(WG as usize));
                gpu.dispatch(&kernel("collect"), &[out, x, &self.places, &self.rows], &params, grid)
            }
        }
    }

    /// dx[r] (+)= Σ dy[places of r]
    fn give_back(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let (rd, ro) = (dy.rows("collect_rows")?, dx.rows("collect_rows")?);
        match dx.device() {
            Device::Cpu(_) => {
                let (dy, places) = (dy.cpu::<f32>(), self.places.cpu::<u32>());
                let starts = self.starts.cpu::<u32>();
                for_rows(dx.cpu_mut::<f32>(), ro, |r, dx| {
                    if !accumulate {
                        dx.fill(0.0);
                    }
                    for place in &places[starts[r] as usize..starts[r + 1] as usize] {
                        dx.iter_mut().zip(&dy[*place as usize * rd.stride..]).for_each(|(o, d)| *o += d);
                    }
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = CollectParams {
                    accumulate: accumulate as u32,
                    ..self.params(dx, dy, &self.starts, ro.rows)?
                };
                let grid = gpu.caps().grid((ro.rows * ro.cols).div_ceil(WG as usize));
                gpu.dispatch(&kernel("give_back"), &[dx, dy, &self.places, &self.starts], &params, grid)
            }
        }
    }
}

/// `out[i] = sources[s][r]` for the i-th (s, r) of `picks`. Sources have the same number of columns; one without a pick
/// gets no gradient.
pub fn collect_rows(tape: &Tape, sources: &[&Var], picks: &[(usize, usize)]) -> Result<Var> {
    let wrong = || {
        let shapes: Vec<_> = sources.iter().map(|s| s.value().shape().to_vec()).collect();
        Error::shape("collect_rows", format!("{} rows of matrices {shapes:?}", picks.len()))
    };
    let Some(first) = sources.first() else { return Err(wrong()) };
    let (device, cols) = (first.value().device(), first.value().rows("collect_rows")?.cols);
    let mut lists = vec![Vec::new(); sources.len()];
    for (place, (source, row)) in picks.iter().enumerate() {
        let rows = sources.get(*source).map_or(0, |s| s.value().dim(0));
        if *row >= rows {
            return Err(wrong());
        }
        lists[*source].push((*row as u32, place as u32));
    }
    if sources.iter().any(|s| s.value().shape().len() != 2 || s.value().dim(1) != cols) {
        return Err(wrong());
    }
    let out = Tensor::empty(device, &[picks.len(), cols], DType::F32)?;
    let mut used = Vec::new();
    for (source, list) in sources.iter().zip(lists) {
        if list.is_empty() {
            continue;
        }
        let picks = Picks::new(device, source.value().dim(0), list)?;
        picks.collect(source.value(), &out)?;
        used.push(((*source).clone(), picks));
    }
    Ok(tape.record("collect_rows", sources, out, move |g, dy| {
        for (source, picks) in &used {
            if let Some(t) = g.target(source)? {
                picks.give_back(&dy, &t.tensor, t.accumulate)?;
            }
        }
        Ok(())
    }))
}
