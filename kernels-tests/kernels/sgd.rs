//! SGD with momentum and a learning rate for every part, against a float64 loop.

use poa_gpu::optim::sgd::Sgd;
use poa_gpu::tensor::Tensor;

use crate::support::{assert_close, devices, random};

#[test]
fn steps_with_a_rate_for_every_part() {
    for (shape, rates) in [
        (vec![1, 1], vec![0.1]),
        (vec![6, 17], vec![0.1, 1.0, 3.0]),
        (vec![26, 1000], vec![0.5, 1e-3]),
        (vec![39], vec![0.3, 0.02, 0.7]),
    ] {
        let n: usize = shape.iter().product();
        let per_rate = n / rates.len();
        for device in devices() {
            let start = random(1, n);
            let sgd = Sgd::new(Tensor::from_slice(&device, &shape, &start).unwrap(), &rates, 0.9).unwrap();
            let mut want: Vec<f64> = start.iter().map(|v| *v as f64).collect();
            let mut velocity = vec![0.0; n];
            for step in 0..4u64 {
                let gradient = random(10 + step, n);
                let factor = 1.0 / (step + 1) as f64;
                for i in 0..n {
                    velocity[i] = 0.9 * velocity[i] + gradient[i] as f64;
                    want[i] -= factor * rates[i / per_rate] * velocity[i];
                }
                sgd.step(&Tensor::from_slice(&device, &shape, &gradient).unwrap(), factor).unwrap();
            }
            let what = format!("{shape:?} on {}", device.kind());
            assert_close(&what, &sgd.values.to_vec::<f32>().unwrap(), &want, 2e-6, 2e-6);
            assert!(sgd.values.fences_intact().unwrap(), "{what}: written beside");
        }
    }
}

#[test]
fn parts_must_be_equal() {
    for device in devices() {
        let values = Tensor::from_slice(&device, &[7], &[0.0f32; 7]).unwrap();
        assert!(Sgd::new(values.clone(), &[0.1, 0.2], 0.9).is_err());
        assert!(Sgd::new(values, &[], 0.9).is_err());
    }
}
