//! 8-bit values that become floats on the device, by a table of 256 numbers a channel: images go up in a quarter of the
//! bytes, and what becomes of a value was reckoned by the host, whatever the device.

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG};

const SHADER: Shader = shader!("lookup.wgsl", kernels);
/// Numbers a channel: one for each value.
pub const VALUES: usize = 256;

params!(LookupParams {
    count: u32,
    plane: u32,
    channels: u32,
    out_offset: u32,
    words_offset: u32,
    table_offset: u32,
});

fn kernel() -> Kernel {
    Kernel::new::<LookupParams>(SHADER, "look_up", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// 8-bit values on a device.
pub struct Bytes {
    /// `u32`: four in a word, the first lowest.
    words: Tensor,
    count: usize,
}

impl Bytes {
    /// Copies values to a device.
    pub fn upload(device: &Device, values: &[u8]) -> Result<Self> {
        let count = values.len();
        let words = match bytemuck::try_cast_slice::<u8, u32>(values) {
            Ok(words) if cfg!(target_endian = "little") => Tensor::from_slice(device, &[words.len()], words)?,
            _ => {
                let word = |four: &[u8]| {
                    let mut word = [0; 4];
                    word[..four.len()].copy_from_slice(four);
                    u32::from_le_bytes(word)
                };
                let words: Vec<u32> = values.chunks(4).map(word).collect();
                Tensor::from_slice(device, &[words.len()], &words)?
            }
        };
        Ok(Self { words, count })
    }

    /// `f32 [n, channels, ..]` of this shape, in which a value of a channel is what `table` `[channels, 256]` says.
    pub fn look_up(&self, table: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let _span = profile::operation("look_up");
        let count: usize = shape.iter().product();
        let fits = shape.len() >= 2 && count == self.count && table.shape() == [shape[1], VALUES];
        if !fits || table.dtype() != DType::F32 || !table.layout().is_contiguous() {
            let problem = format!("{} values as {shape:?} by {table:?}", self.count);
            return Err(Error::shape("look_up", problem));
        }
        let device = table.device();
        let out = Tensor::empty(device, shape, DType::F32)?;
        if count == 0 {
            return Ok(out);
        }
        let (channels, plane) = (shape[1], shape[2..].iter().product::<usize>());
        match device {
            Device::Cpu(_) => {
                let (words, table) =
                    (self.words.cpu_read::<u32>("look_up")?, table.cpu_read::<f32>("look_up")?);
                let planes = out.reshape(&[shape[0] * channels, plane])?;
                for_rows(
                    planes.cpu_rows_mut::<f32>("look_up")?.rows_mut(),
                    #[inline(always)]
                    |_, i, row| {
                        let table = &table[i % channels * VALUES..][..VALUES];
                        for (j, to) in row.iter_mut().enumerate() {
                            let at = i * plane + j;
                            *to = table[(words[at / 4] >> (8 * (at % 4)) & 255) as usize];
                        }
                    },
                );
                Ok(out)
            }
            Device::Gpu(gpu) => {
                let params = LookupParams {
                    count,
                    plane,
                    channels,
                    out_offset: out.layout().offset,
                    words_offset: self.words.layout().offset,
                    table_offset: table.layout().offset,
                };
                let grid = gpu.caps().grid(count.div_ceil(WG as usize));
                gpu.dispatch(&kernel(), &[&out, &self.words, table], &params, grid)?;
                Ok(out)
            }
        }
    }
}
