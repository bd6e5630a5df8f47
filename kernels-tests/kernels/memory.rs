//! Who may use the CPU device's memory at the same time: what is written lies apart from all else, element by
//! element.

use poa_gpu::autograd::Tape;
use poa_gpu::ops::gather::gather_rows;
use poa_gpu::ops::layer_norm::layer_norm;
use poa_gpu::ops::matmul::{Epilogue, Matrix, Options, matmul};
use poa_gpu::tensor::{Device, Tensor, add_assign, copy, scale, strided_copy};
use poa_gpu::{Error, Result};

use crate::support::random;

fn cpu() -> Device {
    let device = Device::cpu();
    device.set_fences(true);
    device
}

fn matrix(device: &Device, rows: usize, cols: usize) -> Tensor {
    Tensor::from_slice(device, &[rows, cols], &random(7, rows * cols)).unwrap()
}

/// The call is refused as a shape error of `op` that says `why`.
#[track_caller]
fn assert_refused<T>(op: &str, why: &str, result: Result<T>) {
    match result {
        Err(Error::Shape { op: named, problem }) => {
            assert_eq!(named, op, "{problem}");
            assert!(problem.contains(why), "{problem}");
        }
        Err(e) => panic!("{op}: another error: {e}"),
        Ok(_) => panic!("{op}: accepted"),
    }
}

#[test]
fn an_output_lies_apart_from_the_operands() {
    let t = matrix(&cpu(), 8, 6);
    let before = t.to_vec::<f32>().unwrap();
    let rows = |range| t.slice(0, range).unwrap();
    let cols = |range| t.slice(1, range).unwrap();
    let overlaps = "overlaps";
    assert_refused("scale", overlaps, copy(&rows(0..5), &rows(3..8)));
    assert_refused("scale", overlaps, copy(&cols(0..3), &cols(2..5)));
    assert_refused("add_scaled", overlaps, add_assign(&t, &t));
    assert_refused("add_scaled", overlaps, add_assign(&cols(1..2), &cols(1..2)));
    let square = Matrix::new(&t.slice(0, 0..6).unwrap()).unwrap();
    assert_refused("matmul", overlaps, matmul(&square, &square, &square, &Options::default()));
    let four = |t: &Tensor| t.reshape(&[2, 2, 2, 6]).unwrap();
    assert_refused("strided_copy", overlaps, strided_copy(&four(&t), &four(&t).transpose(0, 1), false));
    assert_eq!(t.to_vec::<f32>().unwrap(), before, "what is refused writes nothing");
}

#[test]
fn two_outputs_lie_apart() {
    let device = cpu();
    let (a, b, c) = (matrix(&device, 4, 4), matrix(&device, 4, 4), matrix(&device, 4, 8));
    let bias = Tensor::from_slice(&device, &[4], &random(8, 4)).unwrap();
    let product = |pre: Tensor| {
        let out = Matrix::new(&c.slice(1, 0..4).unwrap()).unwrap();
        let epilogue = Epilogue::BiasGelu { bias: bias.clone(), pre: Some(pre) };
        let options = Options { epilogue, ..Options::default() };
        matmul(&Matrix::new(&a).unwrap(), &Matrix::new(&b).unwrap(), &out, &options)
    };
    assert_refused("matmul", "another output", product(c.slice(1, 3..7).unwrap()));
    product(c.slice(1, 4..8).unwrap()).unwrap();
}

#[test]
fn interleaved_slices_are_apart() {
    let t = matrix(&cpu(), 5, 7);
    let before = t.to_vec::<f32>().unwrap();
    let cols = |range| t.slice(1, range).unwrap();
    copy(&cols(0..3), &cols(4..7)).unwrap();
    scale(&cols(3..4), &cols(2..3), 2.0).unwrap();
    for (got, old) in t.to_vec::<f32>().unwrap().chunks(7).zip(before.chunks(7)) {
        let want = [old[4], old[5], old[6], 2.0 * old[6], old[4], old[5], old[6]];
        assert_eq!(got, want);
    }
    // the q and v rows of an elastic weight, from its k rows
    let weight = matrix(&cpu(), 12, 4).reshape(&[3, 4, 4]).unwrap();
    let before = weight.to_vec::<f32>().unwrap();
    let part = |i: usize| weight.slice(0, i..i + 1).unwrap().slice(1, 0..2).unwrap();
    let both = weight.slice(1, 2..4).unwrap();
    copy(&part(0), &part(1)).unwrap();
    copy(&part(2), &part(1)).unwrap();
    let after = weight.to_vec::<f32>().unwrap();
    for i in 0..3 {
        assert_eq!(after[16 * i..][..8], before[16..24]);
        assert_eq!(after[16 * i + 8..][..8], before[16 * i + 8..][..8]);
    }
    // three groups of rows, written beside what they are made from
    let product = Matrix::grouped_rows(&both).unwrap();
    let left = Matrix::grouped_rows(&weight.slice(1, 0..2).unwrap()).unwrap();
    let right = Matrix::new(&matrix(weight.device(), 4, 4)).unwrap();
    matmul(&left, &right, &product, &Options::default()).unwrap();
    assert_refused("matmul", "overlaps", matmul(&product, &right, &product, &Options::default()));
}

#[test]
fn a_row_that_is_named_twice_has_no_gradient() {
    let device = cpu();
    let index = Tensor::from_slice(&device, &[3], &[2u32, 0, 2]).unwrap();
    let tape = Tape::new();
    let x = tape.leaf(matrix(&device, 4, 5));
    let picked = gather_rows(&tape, &x, &index).unwrap();
    let (got, all) = (picked.value().to_vec::<f32>().unwrap(), x.value().to_vec::<f32>().unwrap());
    assert_eq!(got[..5], all[10..15]);
    assert_eq!(got[10..], all[10..15]);
    let seed = matrix(&device, 3, 5);
    let error = tape.backward(vec![(&picked, seed.clone())]).err().unwrap().to_string();
    assert!(error.contains("gather_rows") && error.contains("row 2 is named twice"), "{error}");

    let tape = Tape::new();
    let [x, gamma, beta] = [4, 1, 1].map(|rows| tape.leaf(matrix(&device, rows, 5)));
    let y = layer_norm(&tape, &x, &gamma, &beta, 1e-6, Some(&index)).unwrap();
    let error = tape.backward(vec![(&y, seed)]).err().unwrap().to_string();
    assert!(error.contains("layer_norm") && error.contains("row 2 is named twice"), "{error}");
}

#[test]
fn a_refused_operation_keeps_nothing() {
    let t = matrix(&cpu(), 3, 4);
    assert_refused("add_scaled", "overlaps", add_assign(&t, &t));
    // the views of the refused call are gone
    t.upload(&[1.0f32; 12]).unwrap();
    assert_eq!(t.to_vec::<f32>().unwrap(), [1.0; 12]);
}
