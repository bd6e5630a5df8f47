//! Runs an ONNX model that `poa-gpu extract --format onnx` wrote with tract, on images that `poa-gpu features --patches --images`
//! wrote beside their features, and compares: MODEL FEATURES. The difference may be 1e-4.

use std::path::Path;
use std::process::ExitCode;

use safetensors::SafeTensors;
use tract_onnx::prelude::*;

/// The largest difference of a feature that is none.
const MOST: f32 = 1e-4;

type Tensors = (Vec<usize>, Vec<f32>);

/// Shape and values of a tensor of 32-bit floats.
fn floats(file: &SafeTensors, name: &str) -> TractResult<Tensors> {
    let view = file.tensor(name)?;
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok((view.shape().to_vec(), values))
}

/// The largest difference of every output.
fn compare(model: &Path, features: &Path) -> TractResult<Vec<(&'static str, f32)>> {
    let bytes = std::fs::read(features)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (shape, pixels) = floats(&file, "images")?;
    let model = tract_onnx::onnx()
        .model_for_path(model)?
        .with_input_fact(0, f32::fact(&shape).into())?
        .into_optimized()?
        .into_runnable()?;
    let out = model.run(tvec!(Tensor::from_shape(&shape, &pixels)?.into()))?;
    let mut worst = Vec::new();
    for (value, name) in out.iter().zip(["patches", "cls", "mean"]) {
        let (shape, expected) = floats(&file, name)?;
        if value.shape() != &shape[..] {
            return Err(TractError::msg(format!("{name} is {:?}, {shape:?} expected", value.shape())));
        }
        let found = value.as_slice::<f32>()?;
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        // NaN is larger than all
        worst.push((name, difference.fold(0.0, |most, d| if d <= most { most } else { d })));
    }
    Ok(worst)
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, features] = &args[..] else {
        eprintln!("usage: poa-gpu-tract MODEL FEATURES");
        return ExitCode::from(2);
    };
    match compare(Path::new(model), Path::new(features)) {
        Ok(worst) => {
            worst.iter().for_each(|(name, d)| println!("{name} {d:.1e}"));
            let right = worst.len() == 3 && worst.iter().all(|(_, d)| *d <= MOST);
            if !right {
                eprintln!("more than {MOST:.0e} apart: {worst:?}");
            }
            ExitCode::from(u8::from(!right))
        }
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
