//! Conversion between single and half precision, and its gradient; uploads and read-backs of halves at any
//! offset.

use half::f16;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::cast::cast;
use poa_gpu::tensor::{DType, Tensor, convert};

use crate::support::{Placing, assert_close, devices, place, random};

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f16::from_f32(*v).to_f64()).collect()
}

#[test]
fn to_half_and_back() {
    for device in devices() {
        for shape in [[1, 1], [7, 17], [3, 1000]] {
            for placing in [Placing::Dense, Placing::Strided] {
                let values = random(1, shape[0] * shape[1]);
                let label = format!("{shape:?} {placing:?} on {}", device.kind());
                let x = place(&device, &shape, &values, placing).unwrap();
                let tape = Tape::new();
                let leaf = tape.leaf(x);
                let half = cast(&tape, &leaf, DType::F16).unwrap();
                assert!(half.value().fences_intact().unwrap(), "{label}: written beside the halves");
                let back = cast(&tape, &half, DType::F32).unwrap();
                let got = back.value().to_vec::<f32>().unwrap();
                assert_close(&label, &got, &rounded(&values), 0.0, 0.0);
                // the cotangent goes through half precision on its way back
                let cotangent = random(2, values.len());
                let seed = Tensor::from_slice(&device, &shape, &cotangent).unwrap();
                let gradients = tape.backward(vec![(&back, seed)]).unwrap();
                let gradient = gradients.get(&leaf).unwrap().to_vec::<f32>().unwrap();
                assert_close(&label, &gradient, &rounded(&cotangent), 0.0, 0.0);
            }
        }
    }
}

#[test]
fn values_that_halves_do_not_hold() {
    let values = [1e6f32, -1e6, 65_504.0, 1e-9, f32::INFINITY, f32::NAN];
    for device in devices() {
        let x = Tensor::from_slice(&device, &[6], &values).unwrap();
        let half = Tensor::empty(&device, &[6], DType::F16).unwrap();
        convert(&half, &x, None, false).unwrap();
        let got = half.to_vec::<f16>().unwrap();
        let infinity = f16::INFINITY;
        assert_eq!(got[..5], [infinity, -infinity, f16::from_f32(65_504.0), f16::ZERO, infinity]);
        assert!(got[5].is_nan());
    }
}

#[test]
fn with_a_factor_and_added() {
    for device in devices() {
        let (values, prior) = (random(1, 35), random(2, 35));
        let factor = Tensor::from_slice(&device, &[2], &[7.0f32, 64.0]).unwrap().slice(0, 1..2).unwrap();
        let x = Tensor::from_slice(&device, &[5, 7], &values).unwrap();
        let out = Tensor::from_slice(
            &device,
            &[5, 7],
            &prior.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>(),
        );
        let out = out.unwrap();
        convert(&out, &x, Some(&factor), true).unwrap();
        let got: Vec<f32> = out.to_vec::<f16>().unwrap().into_iter().map(f32::from).collect();
        let want: Vec<f64> = rounded(&prior).iter().zip(&values).map(|(p, v)| p + 64.0 * *v as f64).collect();
        assert_close(device.kind(), &got, &want, 1e-3, 5e-4);
        let single = Tensor::from_slice(&device, &[5, 7], &prior).unwrap();
        convert(&single, &out, Some(&factor), true).unwrap();
        let want: Vec<f64> = got.iter().zip(&prior).map(|(v, p)| 64.0 * *v as f64 + *p as f64).collect();
        assert_close(device.kind(), &single.to_vec::<f32>().unwrap(), &want, 1e-6, 1e-6);
        assert!(convert(&single, &x, None, false).is_err(), "both are of single precision");
    }
}

#[test]
fn halves_begin_at_any_element() {
    for device in devices() {
        let values: Vec<f16> = random(1, 9).into_iter().map(f16::from_f32).collect();
        let whole = Tensor::from_slice(&device, &[9], &values).unwrap();
        for (start, count) in [(0, 9), (1, 1), (1, 2), (3, 5), (8, 1)] {
            let part = whole.slice(0, start..start + count).unwrap();
            assert_eq!(part.to_vec::<f16>().unwrap(), values[start..start + count]);
            // what lies beside stays as it is
            let other: Vec<f16> = values[..count].iter().map(|v| -*v).collect();
            part.upload(&other).unwrap();
            let mut want = values.clone();
            want[start..start + count].copy_from_slice(&other);
            assert_eq!(whole.to_vec::<f16>().unwrap(), want);
            part.upload(&values[start..start + count]).unwrap();
        }
        assert!(whole.fences_intact().unwrap());
        assert!(whole.to_vec::<f32>().is_err());
        poa_gpu::tensor::fill(&whole.slice(0, 3..6).unwrap(), 0).unwrap();
        let mut want = values.clone();
        want[3..6].fill(f16::ZERO);
        assert_eq!(whole.to_vec::<f16>().unwrap(), want);
    }
}

#[test]
fn the_same_type_is_no_operation() {
    let device = &devices()[0];
    let x = Var::constant(Tensor::from_slice(device, &[2], &[1.0f32, 2.0]).unwrap());
    let same = cast(&Tape::no_grad(), &x, DType::F32).unwrap();
    assert_eq!(same.value().layout(), x.value().layout());
}
