//! Products on the CPU whose operands are rounded to bfloat16: what single precision makes of operands that were rounded
//! before, but for the order of sums; on processors without such products what it makes of the operands themselves.

use half::bf16;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::conv::{Conv, MapShape, conv2d};
use poa_gpu::ops::matmul::{Matrix, Options, matmul, multiplies_bf16};
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{Placing, assert_close, place, random};

/// As the processor does: to the nearest, ties to even.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect()
}

/// What products see of operands.
fn seen(values: &[f32]) -> Vec<f32> {
    if multiplies_bf16() { rounded(values) } else { values.to_vec() }
}

fn doubled(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| *v as f64).collect()
}

/// How operands lie.
#[derive(Clone, Copy, Debug)]
struct Lies {
    transposed: [bool; 3],
    placing: Placing,
    accumulate: bool,
    alpha: f32,
}

const PLAINLY: Lies = Lies { transposed: [false; 3], placing: Placing::Dense, accumulate: false, alpha: 1.0 };

/// C `[m, n]` by rows, on top of what is 0.25 before, in bfloat16 or as it is.
fn product([m, n, k]: [usize; 3], lies: Lies, values: &[Vec<f32>; 2], lower: bool, exact: bool) -> Vec<f32> {
    let device = Device::cpu();
    device.set_fences(true);
    let [a_turned, b_turned, c_turned] = lies.transposed;
    // stored transposed and viewed back
    let operand = |values: &[f32], rows: usize, cols: usize, turned: bool| {
        let stored: Vec<f32> = match turned {
            true => (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect(),
            false => values.to_vec(),
        };
        let shape = if turned { [cols, rows] } else { [rows, cols] };
        let tensor = place(&device, &shape, &stored, lies.placing).unwrap();
        let matrix = Matrix::new(&tensor).unwrap();
        (tensor, if turned { matrix.t() } else { matrix })
    };
    let ((_a, left), (_b, right)) =
        (operand(&values[0], m, k, a_turned), operand(&values[1], k, n, b_turned));
    // C within a larger matrix, nothing of which may change but C
    let [rows, cols] = if c_turned { [n, m] } else { [m, n] };
    let around =
        Tensor::from_slice(&device, &[rows + 3, cols + 5], &vec![0.25f32; (rows + 3) * (cols + 5)]).unwrap();
    let out = match lies.placing {
        Placing::Dense => Tensor::from_slice(&device, &[rows, cols], &vec![0.25f32; rows * cols]).unwrap(),
        _ => around.slice(0, 1..rows + 1).unwrap().slice(1, 3..cols + 3).unwrap(),
    };
    let to = Matrix::new(&out).unwrap();
    let to = if c_turned { to.t() } else { to };
    let options = Options { alpha: lies.alpha, accumulate: lies.accumulate, exact, ..Options::default() };
    {
        let _products = device.bf16_products(lower);
        matmul(&left, &right, &to, &options).unwrap();
    }
    let whole = if lies.placing == Placing::Dense { &out } else { &around };
    assert!(whole.fences_intact().unwrap(), "{lies:?}: written beside the output");
    for (i, v) in around.to_vec::<f32>().unwrap().into_iter().enumerate() {
        let (row, col) = (i / (cols + 5), i % (cols + 5));
        let inside = (1..rows + 1).contains(&row) && (3..cols + 3).contains(&col);
        assert!(inside || v == 0.25, "{lies:?}: {v} at ({row}, {col}), beside the output");
    }
    let values = out.to_vec::<f32>().unwrap();
    match c_turned {
        true => (0..m * n).map(|i| values[i % n * m + i / n]).collect(),
        false => values,
    }
}

fn check(size: [usize; 3], lies: Lies) {
    let [m, n, k] = size;
    let values = [random(1, m * k), random(2, k * n)];
    let operands = values.each_ref().map(|v| seen(v));
    let expected = doubled(&product(size, lies, &operands, false, false));
    let atol = 4e-7 * k as f64;
    let label = format!("{size:?} {lies:?}");
    assert_close(&label, &product(size, lies, &values, true, false), &expected, atol, 1e-6);
    let exact = product(size, lies, &values, false, false);
    assert!(product(size, lies, &values, true, true) == exact, "{label}: rounded though asked not to");
}

/// Tiles of 12×32 and over their edges, slices of 512 terms, an odd term left, bands of 96 rows, more columns than are
/// packed at a time.
#[test]
fn of_any_shape_and_orientation() {
    for size in [[8, 8, 16], [12, 32, 512], [13, 33, 513], [100, 70, 1030], [197, 31, 65], [9, 2100, 40]] {
        for bits in 0..8 {
            let transposed = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
            check(size, Lies { transposed, ..PLAINLY });
            check(size, Lies { transposed, placing: Placing::Strided, accumulate: true, alpha: 0.5 });
        }
    }
}

/// Rounding shows, and sums are as long as they are: the same bits whatever the number of threads.
#[test]
fn round_operands_and_nothing_else() {
    let size = [210, 130, 700];
    let values = [random(3, 210 * 700), random(4, 700 * 130)];
    let run = |lower, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| product(size, PLAINLY, &values, lower, false))
    };
    let (single, lower) = (run(false, 2), run(true, 2));
    assert_eq!(single != lower, multiplies_bf16());
    let far = single.iter().zip(&lower).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // sums of 700 products of numbers below one, each off by 2^-8 at most
    assert!(far < 700f32.sqrt() * 4.0 / 256.0, "{far}");
    for threads in [1, 3, 7] {
        assert!(run(true, threads) == lower, "{threads} threads");
    }
}

/// Convolutions, forward and both gradients, go through the same products.
#[test]
fn of_convolutions() {
    let device = Device::cpu();
    let shape = MapShape { images: 3, height: 13, width: 11 };
    let (channels, outputs, kernel) = (19, 23, 3);
    let (x, w) = (random(5, shape.rows() * channels), random(6, outputs * channels * kernel * kernel));
    let after = shape.after(kernel, 2, 1);
    let dy = random(7, after.rows() * outputs);
    let run = |[x, w, dy]: [&[f32]; 3], lower: bool| -> Vec<Vec<f32>> {
        let _products = device.bf16_products(lower);
        let tape = Tape::new();
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(&device, shape, values).unwrap();
        let x: Var = tape.leaf(tensor(x, &[shape.rows(), channels]));
        let w: Var = tape.leaf(tensor(w, &[outputs, channels, kernel, kernel]));
        let conv = Conv { weight: w.clone(), stride: 2, padding: 1, alpha: 1.0 };
        let (y, _) = conv2d(&tape, &x, shape, &conv).unwrap();
        let gradients = tape.backward(vec![(&y, tensor(dy, &[after.rows(), outputs]))]).unwrap();
        let of = |v: &Var| gradients.get(v).unwrap().to_vec::<f32>().unwrap();
        vec![y.value().to_vec::<f32>().unwrap(), of(&x), of(&w)]
    };
    let operands = [&x, &w, &dy].map(|v| seen(v));
    let expected = run(operands.each_ref().map(|v| &v[..]), false);
    for (got, want) in run([&x, &w, &dy], true).iter().zip(&expected) {
        assert_close("convolution", got, &doubled(want), 1e-4, 1e-5);
    }
}
