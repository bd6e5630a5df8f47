//! Matrix products: every variant forced, over ragged shapes, orientations, strides, batches, groups and
//! epilogues.

use half::f16;
use poa_gpu::gpu::{Caps, Cooperative};
use poa_gpu::ops::matmul::{
    self, Epilogue, Force, Matrix, Options, PLAIN, PLAIN_SINGLE, Precision, Problem, Variant, matmul_with,
    plan, variants,
};
use poa_gpu::tensor::{DType, Device, Tensor, to_type};

use super::elementwise::gelu;
use crate::support::{Placing, assert_close, devices, gpu, place, place_half, random};

/// An epilogue by name; the test makes its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum EpilogueKind {
    None,
    Bias,
    BiasGelu,
    BiasGeluSaved,
    GeluGrad,
}

/// One product.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Whether A and B are transposed views.
    transposed: [bool; 2],
    placing: Placing,
    /// Whether A and B are one matrix for the whole batch.
    shared: [bool; 2],
    alpha: f32,
    accumulate: bool,
    kind: EpilogueKind,
    parts: Option<usize>,
    precision: Precision,
}

impl Case {
    fn new(m: usize, n: usize, k: usize) -> Self {
        Self {
            batch: 1,
            m,
            n,
            k,
            transposed: [false; 2],
            placing: Placing::Dense,
            shared: [false; 2],
            alpha: 1.0,
            accumulate: false,
            kind: EpilogueKind::None,
            parts: None,
            precision: Precision::Single,
        }
    }
}

/// Central difference of GELU.
fn gelu_slope(x: f64) -> f64 {
    (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5
}

/// The variants to force on a device; the CPU has none.
fn forced(device: &Device, precision: Precision) -> Vec<Option<Variant>> {
    match device {
        Device::Cpu(_) => vec![None],
        Device::Gpu(gpu) => {
            let all = variants(gpu.caps(), precision).into_iter();
            [None].into_iter().chain(all.map(Some)).collect()
        }
    }
}

fn check(case: Case) {
    check_with(case, None);
}

/// With these variants instead of all that there are.
fn check_with(case: Case, only: Option<&[Variant]>) {
    let Case { batch, m, n, k, transposed, placing, shared, alpha, accumulate, kind, parts, precision } =
        case;
    let (halves, half_out) = (precision != Precision::Single, precision == Precision::Half);
    let values = |seed, count: usize, half: bool| -> Vec<f32> {
        let values = random(seed, count).into_iter();
        values.map(|v| if half { f16::from_f32(v).to_f32() } else { v }).collect()
    };
    // operand values as [batch, rows, cols], and where they are laid out
    let operand = |seed, i: usize, rows: usize, cols: usize| {
        let count = if shared[i] { 1 } else { batch };
        (values(seed, count * rows * cols, halves), count)
    };
    let ((a, a_count), (b, b_count)) = (operand(1, 0, m, k), operand(2, 1, k, n));
    let (prior, saved) = (values(3, batch * m * n, half_out), values(5, m * n, half_out));
    let bias = random(4, n);

    let mut expected = Vec::with_capacity(batch * m * n);
    let mut pre = Vec::with_capacity(m * n);
    for z in 0..batch {
        let (a, b) = (&a[(z % a_count) * m * k..][..m * k], &b[(z % b_count) * k * n..][..k * n]);
        for i in 0..m {
            let mut row = vec![0.0f64; n];
            for (q, x) in a[i * k..][..k].iter().enumerate() {
                row.iter_mut().zip(&b[q * n..][..n]).for_each(|(s, y)| *s += *x as f64 * *y as f64);
            }
            for (j, sum) in row.into_iter().enumerate() {
                let product = alpha as f64 * sum;
                let with_bias = product + bias[j] as f64;
                pre.push(with_bias);
                expected.push(match kind {
                    EpilogueKind::None if accumulate => product + prior[expected.len()] as f64,
                    EpilogueKind::None => product,
                    EpilogueKind::Bias => with_bias,
                    EpilogueKind::BiasGelu | EpilogueKind::BiasGeluSaved => gelu(with_bias),
                    EpilogueKind::GeluGrad => product * gelu_slope(saved[i * n + j] as f64),
                });
            }
        }
    }

    for device in devices().into_iter().filter(|d| !halves || d.kind() == "gpu") {
        let placed = |shape: &[usize], values: &[f32], placing, half: bool| match half {
            true => place_half(&device, shape, values, placing).unwrap(),
            false => place(&device, shape, values, placing).unwrap(),
        };
        let read = |t: &Tensor| to_type(t, DType::F32).unwrap().to_vec::<f32>().unwrap();
        let out_type = if half_out { DType::F16 } else { DType::F32 };
        // a transposed operand is stored transposed and viewed back
        let laid_out = |values: &[f32], count: usize, rows: usize, cols: usize, t: bool| {
            let mut stored = values.to_vec();
            if t {
                for z in 0..count {
                    for r in 0..rows {
                        for c in 0..cols {
                            stored[z * rows * cols + c * rows + r] = values[z * rows * cols + r * cols + c];
                        }
                    }
                }
            }
            let shape = if t { [count, cols, rows] } else { [count, rows, cols] };
            let tensor = placed(&shape, &stored, placing, halves);
            let tensor = if count == 1 { tensor.reshape(&shape[1..]).unwrap() } else { tensor };
            let matrix = Matrix::new(&tensor).unwrap();
            if t { matrix.t() } else { matrix }
        };
        let left = laid_out(&a, a_count, m, k, transposed[0]);
        let right = laid_out(&b, b_count, k, n, transposed[1]);
        let vector = place(&device, &[n], &bias, placing).unwrap();
        let variants = match only {
            Some(variants) => variants.iter().copied().map(Some).collect(),
            None => forced(&device, precision),
        };
        for variant in variants {
            let label = format!("{case:?} {variant:?} on {}", device.kind());
            let shape = if batch == 1 { vec![m, n] } else { vec![batch, m, n] };
            let fenced = Tensor::empty(&device, &shape, out_type).unwrap();
            let pre_out = Tensor::empty(&device, &[m, n], out_type).unwrap();
            let out = match placing {
                Placing::Dense => fenced.clone(),
                Placing::Strided | Placing::Vec4Aligned | Placing::Vec8Aligned => {
                    placed(&shape, &vec![f32::NAN; batch * m * n], placing, half_out)
                }
            };
            if accumulate {
                let prior = placed(&shape, &prior, Placing::Dense, half_out);
                poa_gpu::tensor::copy(&out, &prior).unwrap();
            }
            let epilogue = match kind {
                EpilogueKind::None => Epilogue::None,
                EpilogueKind::Bias => Epilogue::Bias(vector.clone()),
                EpilogueKind::BiasGelu => Epilogue::BiasGelu { bias: vector.clone(), pre: None },
                EpilogueKind::BiasGeluSaved => {
                    Epilogue::BiasGelu { bias: vector.clone(), pre: Some(pre_out.clone()) }
                }
                EpilogueKind::GeluGrad => {
                    Epilogue::GeluGrad { pre: placed(&[m, n], &saved, placing, half_out) }
                }
            };
            let options = Options { alpha, accumulate, epilogue, ..Options::default() };
            let force = Force { variant, parts };
            matmul_with(&left, &right, &Matrix::new(&out).unwrap(), &options, force)
                .unwrap_or_else(|e| panic!("{label}: {e}"));
            // sums are single; what is stored in half precision is rounded once more
            let rtol = if half_out { 5e-4 } else { 2e-6 };
            let atol = 4e-7 * (k as f64).max(8.0);
            assert_close(&label, &read(&out), &expected, atol, rtol);
            assert!(fenced.fences_intact().unwrap(), "{label}: written beside the output");
            if kind == EpilogueKind::BiasGeluSaved {
                assert_close(&label, &read(&pre_out), &pre, atol, rtol);
            }
            assert!(pre_out.fences_intact().unwrap(), "{label}: written beside the pre-activation");
        }
    }
}

/// Both kinds of products of halves, in every orientation and with every epilogue.
#[test]
fn half_precision() {
    for precision in [Precision::HalfToSingle, Precision::Half] {
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            // operands that can be read in vectors, and others
            for [m, n, k] in [[1, 1, 1], [7, 17, 3], [65, 33, 37], [36, 68, 24], [72, 136, 40]] {
                let case = Case { precision, transposed, alpha: 0.5, ..Case::new(m, n, k) };
                check(case);
                check(Case { placing: Placing::Strided, accumulate: true, ..case });
            }
            let case = Case { precision, transposed, ..Case::new(24, 40, 300) };
            check(Case { batch: 2, shared: [true, false], ..case });
            check(Case { parts: Some(3), ..case });
        }
        for kind in
            [EpilogueKind::Bias, EpilogueKind::BiasGelu, EpilogueKind::BiasGeluSaved, EpilogueKind::GeluGrad]
        {
            for placing in [Placing::Dense, Placing::Strided] {
                for parts in [None, Some(3)] {
                    let case = Case { precision, kind, placing, parts, ..Case::new(66, 37, 50) };
                    check(Case { transposed: [false, true], ..case });
                    check(Case { transposed: [false, true], n: 40, k: 48, ..case });
                }
            }
        }
    }
}

/// The kernels for cooperative matrices, with plain arithmetic in the matrices' place: 16×16 and 8×8 in turn,
/// since a software adapter takes seconds to build one.
#[test]
fn tiles_of_cooperative_products() {
    let orientations = [[false, false], [false, true], [true, false], [true, true]];
    for (i, transposed) in orientations.into_iter().enumerate() {
        let (here, there) = (&PLAIN[i % 2..][..1], &PLAIN[(i + 1) % 2..][..1]);
        let case = |m, n, k| Case { transposed, alpha: 0.5, ..Case::new(m, n, k) };
        // over the edges of the tiles, read in vectors and not
        check_with(Case { precision: Precision::HalfToSingle, ..case(72, 136, 40) }, Some(here));
        check_with(Case { precision: Precision::Half, ..case(67, 45, 35) }, Some(there));
    }
    let case = Case { precision: Precision::Half, accumulate: true, ..Case::new(64, 72, 200) };
    check_with(Case { batch: 2, shared: [false, true], ..case }, Some(&PLAIN[..1]));
    check_with(Case { parts: Some(3), placing: Placing::Strided, ..case }, Some(&PLAIN[1..2]));
    let case = Case { precision: Precision::Half, alpha: 1.5, ..Case::new(66, 40, 48) };
    check_with(Case { kind: EpilogueKind::BiasGeluSaved, ..case }, Some(&PLAIN[..1]));
    check_with(Case { kind: EpilogueKind::GeluGrad, ..case }, Some(&PLAIN[1..2]));
    // C, and the epilogue's matrix, in eights with every epilogue and small matrix
    check_with(Case { kind: EpilogueKind::Bias, ..case }, Some(&PLAIN[1..2]));
    check_with(Case { kind: EpilogueKind::BiasGelu, ..case }, Some(&PLAIN[2..]));
    check_with(Case { kind: EpilogueKind::GeluGrad, ..case }, Some(&PLAIN[..1]));
    check_with(Case { placing: Placing::Vec8Aligned, accumulate: true, ..case }, Some(&PLAIN[..2]));
    check_with(
        Case { kind: EpilogueKind::GeluGrad, placing: Placing::Vec8Aligned, ..case },
        Some(&PLAIN[1..2]),
    );
    // in fours where rows of eights do not come out even, though A and B are read in eights
    let case = Case { transposed: [false, true], ..case };
    check_with(Case { kind: EpilogueKind::BiasGeluSaved, n: 44, ..case }, Some(&PLAIN[1..2]));
    check_with(Case { kind: EpilogueKind::GeluGrad, n: 44, ..case }, Some(&PLAIN[..1]));
    // twice as many subgroups as have results
    check_with(
        Case { precision: Precision::Half, accumulate: true, ..Case::new(67, 45, 35) },
        Some(&PLAIN[2..]),
    );
    check_with(
        Case { precision: Precision::HalfToSingle, transposed: [true, false], ..Case::new(72, 136, 200) },
        Some(&PLAIN[2..]),
    );
}

/// What adapters are asked for when they are opened, of a kernel that is right; with a K below what llvmpipe,
/// which leaves loops after 65,535 rounds, multiplies in plain arithmetic.
#[test]
fn what_is_asked_of_cooperative_products() {
    matmul::check_products(&gpu(), PLAIN[0], 1032, 2).unwrap();
    matmul::check_products(&gpu(), PLAIN_SINGLE, 1032, 2).unwrap();
}

/// The kernel for small matrices of single precision, with plain arithmetic in their place.
#[test]
fn tiles_of_cooperative_products_in_single_precision() {
    let only = Some(&[PLAIN_SINGLE][..]);
    for transposed in [[false, false], [false, true], [true, false], [true, true]] {
        // over the edges of the tiles, read in vectors and not
        check_with(Case { transposed, alpha: 0.5, ..Case::new(72, 136, 40) }, only);
        check_with(Case { transposed, ..Case::new(67, 45, 35) }, only);
    }
    let case = Case { accumulate: true, ..Case::new(64, 72, 200) };
    check_with(Case { batch: 2, shared: [false, true], ..case }, only);
    check_with(Case { parts: Some(3), placing: Placing::Strided, ..case }, only);
    check_with(Case { parts: Some(3), placing: Placing::Vec8Aligned, ..case }, only);
    let case = Case { alpha: 1.5, ..Case::new(66, 40, 48) };
    for kind in [EpilogueKind::BiasGelu, EpilogueKind::BiasGeluSaved, EpilogueKind::GeluGrad] {
        check_with(Case { kind, ..case }, only);
    }
    check_with(Case { kind: EpilogueKind::Bias, transposed: [false, true], n: 44, ..case }, only);
}

/// Half precision comes in pairs, and on a GPU.
#[test]
fn mixed_operands_are_refused() {
    for device in devices() {
        let matrix = |dtype| Matrix::new(&Tensor::zeros(&device, &[4, 4], dtype).unwrap()).unwrap();
        let run = |types: [DType; 3]| {
            let [a, b, c] = types.map(matrix);
            matmul_with(&a, &b, &c, &Options::default(), Force::default()).map_err(|e| e.to_string())
        };
        let (half, single) = (DType::F16, DType::F32);
        for types in [[half, single, single], [single, half, half], [single, single, half]] {
            assert!(run(types).unwrap_err().contains("half precision"));
        }
        let gpu = device.kind() == "gpu";
        assert_eq!(run([half, half, single]).is_ok(), gpu);
        assert_eq!(run([half, half, half]).is_ok(), gpu);
    }
}

/// The tiles that are staged through workgroup memory, on the GPU.
fn tiles() -> Vec<Variant> {
    let Device::Gpu(gpu) = gpu() else { unreachable!("a GPU was asked for") };
    let all = variants(gpu.caps(), Precision::Single).into_iter();
    all.filter(|variant| matches!(variant, Variant::Tiled { .. })).collect()
}

/// K that is shorter than what is staged at a time, that ends with it, a vector before and after it, and within
/// a vector; rows and columns over the edges; operands in vectors, in vectors whose last is cut, and without.
#[test]
fn edges_of_tiles() {
    let tiles = tiles();
    for (i, k) in [1, 4, 6, 15, 16, 20, 31, 32, 36, 48, 63, 64, 68].into_iter().enumerate() {
        for placing in [Placing::Dense, Placing::Vec4Aligned, Placing::Strided] {
            for (j, transposed) in
                [[false, false], [false, true], [true, false], [true, true]].into_iter().enumerate()
            {
                // in vectors and not; one tile and several
                let [m, n] = [[28, 36], [132, 140], [37, 41]][(i + j) % 3];
                check_with(Case { transposed, placing, ..Case::new(m, n, k) }, Some(&tiles));
            }
        }
    }
    // parts that end within a tile, several matrices, and sums that go on from what is there
    for parts in [2, 3] {
        let case = Case { parts: Some(parts), accumulate: true, ..Case::new(20, 132, 150) };
        check_with(Case { transposed: [true, false], ..case }, Some(&tiles));
        check_with(Case { batch: 2, k: 152, ..case }, Some(&tiles));
    }
}

/// Every tile adds up along K, one product after the other, whatever it stages and whichever way: the same bits
/// as a loop's, where multiplying and adding are rounded once or twice.
#[test]
fn tiles_add_up_in_the_order_of_k() {
    let device = gpu();
    for [m, n, k] in [[140, 132, 100], [45, 37, 53]] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let loops = [f32::mul_add, |x: f32, y, sum| x * y + sum].map(|step| {
            let sum = |i: usize, j: usize| (0..k).fold(0.0, |sum, q| step(a[i * k + q], b[q * n + j], sum));
            (0..m * n).map(|at| sum(at / n, at % n).to_bits()).collect::<Vec<u32>>()
        });
        let turned = |values: &[f32], rows: usize, cols: usize| -> Vec<f32> {
            (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
        };
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            let operand = |values: &[f32], rows, cols, transposed| {
                let matrix = |shape: [usize; 2], values: &[f32]| {
                    Matrix::new(&Tensor::from_slice(&device, &shape, values).unwrap()).unwrap()
                };
                match transposed {
                    true => matrix([cols, rows], &turned(values, rows, cols)).t(),
                    false => matrix([rows, cols], values),
                }
            };
            let (left, right) = (operand(&a, m, k, transposed[0]), operand(&b, k, n, transposed[1]));
            for variant in tiles() {
                let out = Tensor::empty(&device, &[m, n], DType::F32).unwrap();
                let force = Force { variant: Some(variant), parts: Some(1) };
                let c = Matrix::new(&out).unwrap();
                matmul_with(&left, &right, &c, &Options::default(), force).unwrap();
                let bits: Vec<u32> = out.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
                assert!(loops.contains(&bits), "{m} {n} {k} {transposed:?} {variant:?}");
            }
        }
    }
}

const ORIENTATIONS: [[bool; 2]; 3] = [[false, false], [false, true], [true, false]];

#[test]
fn ragged_shapes_in_three_orientations() {
    let shapes = [
        [1, 1, 1],
        [7, 17, 3],
        [1, 197, 64],
        [197, 1, 17],
        [64, 64, 64],
        [65, 65, 65],
        [100, 99, 100],
        [17, 130, 8],
        [130, 33, 197],
    ];
    for [m, n, k] in shapes {
        for transposed in ORIENTATIONS {
            check(Case { transposed, ..Case::new(m, n, k) });
        }
    }
    // operands that can be read in vectors, with ragged tiles and a K that vectors do not divide
    for [m, n, k] in [[4, 4, 5], [36, 68, 23], [28, 36, 40]] {
        for transposed in ORIENTATIONS {
            check(Case { batch: 2, transposed, ..Case::new(m, n, k) });
        }
    }
    check(Case { transposed: [true, true], ..Case::new(33, 40, 21) });
}

#[test]
fn strided_slices_with_offsets() {
    for transposed in ORIENTATIONS {
        for [m, n, k] in [[7, 17, 9], [65, 70, 33]] {
            check(Case { transposed, placing: Placing::Strided, alpha: 0.5, ..Case::new(m, n, k) });
            let accumulate = Case { accumulate: true, alpha: 2.0, ..Case::new(m, n, k) };
            check(Case { transposed, placing: Placing::Strided, ..accumulate });
        }
    }
}

#[test]
fn batches_share_operands() {
    for shared in [[false, false], [true, false], [false, true]] {
        for transposed in ORIENTATIONS {
            check(Case { batch: 3, shared, transposed, ..Case::new(17, 33, 19) });
        }
    }
    check(Case { batch: 3, accumulate: true, parts: Some(2), ..Case::new(17, 33, 19) });
}

#[test]
fn epilogues() {
    for kind in
        [EpilogueKind::Bias, EpilogueKind::BiasGelu, EpilogueKind::BiasGeluSaved, EpilogueKind::GeluGrad]
    {
        for placing in [Placing::Dense, Placing::Strided] {
            // a strided bias lies behind an offset
            for parts in [None, Some(3)] {
                let case = Case { kind, placing, parts, alpha: 1.5, ..Case::new(66, 37, 50) };
                check(Case { transposed: [false, true], ..case });
            }
        }
    }
}

#[test]
fn cut_inner_dimension() {
    for parts in [2, 3, 7] {
        for [m, n, k] in [[5, 9, 300], [33, 40, 1000], [65, 3, 7]] {
            let case = Case { parts: Some(parts), transposed: [true, false], ..Case::new(m, n, k) };
            check(case);
            check(Case { accumulate: true, alpha: 0.3, placing: Placing::Strided, ..case });
        }
    }
}

/// The three products of a layer whose weight is [3, n, k] with rows and columns cut off.
#[test]
fn three_groups_of_weight_rows() {
    // columns left out before, and altogether; four and eight leave rows aligned for vectors
    for [rows, n, k, before, more] in
        [[5, 16, 16, 4, 8], [37, 24, 40, 2, 3], [70, 33, 48, 2, 3], [40, 20, 12, 4, 8]]
    {
        let (x, w, dy) = (random(1, rows * k), random(2, 3 * n * k), random(3, rows * 3 * n));
        let prior = random(4, 3 * n * k);
        let wide = 3 * n;
        let dot = |count: usize, f: &dyn Fn(usize) -> f64| (0..count).map(f).sum::<f64>();
        let mut y = Vec::new();
        let mut dx = Vec::new();
        let mut dw = Vec::new();
        for r in 0..rows {
            y.extend((0..wide).map(|j| dot(k, &|q| x[r * k + q] as f64 * w[j * k + q] as f64)));
            dx.extend((0..k).map(|q| dot(wide, &|j| dy[r * wide + j] as f64 * w[j * k + q] as f64)));
        }
        for j in 0..wide {
            for q in 0..k {
                let sum = dot(rows, &|r| dy[r * wide + j] as f64 * x[r * k + q] as f64);
                dw.push(sum + prior[j * k + q] as f64);
            }
        }
        for device in devices() {
            // a weight [3, n + 2, k + more] of which [.., 1..n + 1, before..k + before] is used
            let slice = |values: &[f32]| {
                let mut all = vec![f32::NAN; 3 * (n + 2) * (k + more)];
                for j in 0..wide {
                    let at = (j / n) * (n + 2) * (k + more) + (j % n + 1) * (k + more) + before;
                    all[at..at + k].copy_from_slice(&values[j * k..][..k]);
                }
                let whole = Tensor::from_slice(&device, &[3, n + 2, k + more], &all).unwrap();
                whole.slice(1, 1..n + 1).unwrap().slice(2, before..k + before).unwrap()
            };
            let weight = Matrix::weight(&slice(&w)).unwrap();
            let dense = |shape: &[usize], v: &[f32]| Tensor::from_slice(&device, shape, v).unwrap();
            let (x, dy) = (dense(&[rows, k], &x), dense(&[rows, wide], &dy));
            let (x, dy) = (Matrix::new(&x).unwrap(), Matrix::new(&dy).unwrap());
            for variant in forced(&device, Precision::Single) {
                for parts in [None, Some(2)] {
                    let force = Force { variant, parts };
                    let label = |what| format!("{what} {rows} {n} {k} {force:?} on {}", device.kind());
                    let atol = 4e-7 * wide.max(rows).max(k) as f64;
                    let run =
                        |what, a: &Matrix, b: &Matrix, c: &Tensor, c_matrix: &Matrix, accumulate, want| {
                            let options = Options { accumulate, ..Default::default() };
                            matmul_with(a, b, c_matrix, &options, force).unwrap();
                            assert_close(&label(what), &c.to_vec::<f32>().unwrap(), want, atol, 2e-6);
                        };
                    let out = Tensor::empty(&device, &[rows, wide], DType::F32).unwrap();
                    run("forward", &x, &weight.clone().t(), &out, &Matrix::new(&out).unwrap(), false, &y);
                    assert!(out.fences_intact().unwrap());
                    let out = Tensor::empty(&device, &[rows, k], DType::F32).unwrap();
                    run("input gradient", &dy, &weight, &out, &Matrix::new(&out).unwrap(), false, &dx);
                    assert!(out.fences_intact().unwrap());
                    let out = slice(&prior);
                    let matrix = Matrix::weight(&out).unwrap();
                    run("weight gradient", &dy.clone().t(), &x, &out, &matrix, true, &dw);
                }
            }
        }
    }
}

#[test]
fn operands_must_fit() {
    for device in devices() {
        let matrix =
            |rows, cols| Matrix::new(&Tensor::zeros(&device, &[rows, cols], DType::F32).unwrap()).unwrap();
        let run = |a: &Matrix, b: &Matrix, c: &Matrix| {
            matmul_with(a, b, c, &Options::default(), Force::default()).is_ok()
        };
        assert!(run(&matrix(3, 4), &matrix(4, 5), &matrix(3, 5)));
        assert!(!run(&matrix(3, 4), &matrix(3, 5), &matrix(3, 5)));
        assert!(!run(&matrix(3, 4), &matrix(4, 5), &matrix(5, 3)));
        assert!(!run(&matrix(3, 0), &matrix(0, 5), &matrix(3, 5)));
        assert!(run(&matrix(0, 4), &matrix(4, 5), &matrix(0, 5)));
    }
}

fn problem(m: usize, n: usize, k: usize, precision: Precision) -> Problem {
    Problem {
        batch: 1,
        m,
        n,
        k,
        k_groups: 1,
        a_along_m: false,
        b_along_k: true,
        a_aligned: true,
        b_aligned: true,
        c_aligned: true,
        grouped: false,
        window: false,
        precision,
        wide: true,
        c_wide: true,
        epilogue: matmul::EpilogueKind::Plain,
    }
}

/// What an adapter with tensor cores is given, and what becomes of it without them.
#[test]
fn plans_of_half_precision() {
    let without = Caps {
        f16: true,
        subgroups: true,
        workgroup_bytes: 48 * 1024,
        workgroup_size: 1024,
        ..Caps::minimal()
    };
    let sixteen = Cooperative { eight: false, eight_single: false, ..Cooperative::ALL };
    let with = Caps { cooperative: sixteen, ..without.clone() };
    let eight = Cooperative { sixteen: false, eight_single: false, ..Cooperative::ALL };
    let eight = Caps { cooperative: eight, ..without.clone() };
    let tile = |caps: &Caps, m, n, precision| {
        let variant = plan(&problem(m, n, 1024, precision), caps).variant;
        (matches!(variant, Variant::Cooperative { .. }), variant.tile())
    };
    assert_eq!(tile(&with, 8192, 8192, Precision::Half), (true, (128, 128)));
    assert_eq!(tile(&with, 788, 384, Precision::Half), (true, (64, 64)));
    assert_eq!(tile(&eight, 8192, 8192, Precision::HalfToSingle), (true, (64, 64)));
    // where the driver chooses the size of subgroups, in memory for as many as there may be
    let varying = Caps { subgroup_size: (32, 64), workgroup_bytes: 64 * 1024, ..with.clone() };
    assert_eq!(tile(&varying, 8192, 8192, Precision::Half), (true, (128, 128)));
    let little = Caps { workgroup_bytes: 48 * 1024, ..varying.clone() };
    assert_eq!(tile(&little, 8192, 8192, Precision::Half), (true, (64, 64)));
    assert!(!tile(&Caps { subgroup_size: (4, 64), ..varying }, 8192, 8192, Precision::Half).0);
    assert!(!tile(&with, 8192, 8192, Precision::Single).0, "these tensor cores take halves");
    // of single precision where there are such, and where tiles are not better
    let single = Cooperative { eight_single: true, ..Cooperative::default() };
    let single = Caps { cooperative: single, f16: false, workgroup_bytes: 32 * 1024, ..without.clone() };
    assert_eq!(tile(&single, 788, 384, Precision::Single), (true, (64, 64)));
    assert!(!tile(&single, 16, 384, Precision::Single).0);
    let read_singly = Problem { wide: false, ..problem(788, 384, 1024, Precision::Single) };
    assert!(!matches!(plan(&read_singly, &single).variant, Variant::Cooperative { .. }));
    assert!(!tile(&without, 8192, 8192, Precision::Half).0);
    assert!(variants(&Caps::minimal(), Precision::Half).is_empty());
}

#[test]
fn every_adapter_has_variants() {
    assert!(!variants(&Caps::minimal(), Precision::Single).is_empty());
    // and is given one that it can run
    for (bytes, size) in [(8, 64), (8, 256), (16, 64), (16, 128), (16, 256), (32, 256), (48, 1024)] {
        let caps = Caps { workgroup_bytes: bytes << 10, workgroup_size: size, ..Caps::minimal() };
        let all = variants(&caps, Precision::Single);
        for [m, n] in [[8, 512], [16, 16], [32, 4096], [788, 384], [8192, 8192]] {
            let variant = plan(&problem(m, n, 1024, Precision::Single), &caps).variant;
            assert!(all.contains(&variant), "{variant:?}, {bytes} KiB, {size} invocations");
        }
    }
}
