//! The tape: which gradients an operation is asked for, and what becomes of its errors.

use poa_gpu::autograd::{InputGradient, Tape, Var};
use poa_gpu::tensor::{Device, Tensor, add_scaled, scale};
use poa_gpu::{Error, Result};

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_slice(&Device::cpu(), &[values.len()], values).unwrap()
}

/// An operation on three inputs whose output is ten, whose cotangent is one, and whose gradients `backward`
/// settles.
fn propagate(
    tape: Tape,
    inputs: [Option<&Var>; 3],
    backward: impl FnOnce([InputGradient; 3], Tensor) -> Result<()> + 'static,
) -> Result<poa_gpu::autograd::Gradients> {
    let output = tape.record("sum", inputs, vector(&[10.0]), backward);
    tape.backward(vec![(&output, vector(&[1.0]))])
}

fn times(gradient: InputGradient, dy: &Tensor, factor: f32) -> Result<()> {
    gradient.write(|to, accumulate| match accumulate {
        true => add_scaled(to, dy, factor),
        false => scale(to, dy, factor),
    })
}

#[test]
fn gradients_arrive_in_the_order_of_the_inputs() {
    let tape = Tape::new();
    let [x, y, z] = [1.0, 2.0, 3.0].map(|v| tape.leaf(vector(&[v])));
    let gradients = propagate(tape, [Some(&x), Some(&y), Some(&z)], |[dx, dy, dz], cotangent| {
        times(dz, &cotangent, 3.0)?;
        times(dx, &cotangent, 1.0)?;
        times(dy, &cotangent, 2.0)
    })
    .unwrap();
    let read = |v: &Var| gradients.get(v).unwrap().item().unwrap();
    assert_eq!([read(&x), read(&y), read(&z)], [1.0, 2.0, 3.0]);
}

#[test]
fn an_input_used_twice_gets_the_sum() {
    let tape = Tape::new();
    let x = tape.leaf(vector(&[1.0]));
    let gradients = propagate(tape, [Some(&x), None, Some(&x)], |[dx, nothing, again], cotangent| {
        assert!(dx.is_wanted() && !nothing.is_wanted());
        times(dx, &cotangent, 2.0)?;
        times(again, &cotangent, 5.0)
    })
    .unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 7.0);
}

#[test]
fn a_forgotten_gradient_is_an_error() {
    let tape = Tape::new();
    let [x, z] = [1.0, 3.0].map(|v| tape.leaf(vector(&[v])));
    let constant = Var::constant(vector(&[2.0]));
    let error = propagate(tape, [Some(&x), Some(&constant), Some(&z)], |[dx, _, _], cotangent| {
        times(dx, &cotangent, 1.0)
    })
    .map(|_| ())
    .unwrap_err()
    .to_string();
    assert!(error.contains("sum") && error.contains("input 2"), "{error}");

    // nothing is owed to constants
    let tape = Tape::new();
    let x = tape.leaf(vector(&[1.0]));
    let inputs = [Some(&x), Some(&constant), None];
    assert!(propagate(tape, inputs, |[dx, ..], cotangent| dx.add(cotangent)).is_ok());

    // a list of inputs is held to the same
    let tape = Tape::new();
    let leaves = [1.0, 2.0].map(|v| tape.leaf(vector(&[v])));
    let inputs: Vec<&Var> = leaves.iter().collect();
    let output = tape.record_list("list", &inputs, vector(&[3.0]), |all, dy| all[1].add(dy));
    let error = tape.backward(vec![(&output, vector(&[1.0]))]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("list") && error.contains("input 0"), "{error}");
}

#[test]
fn a_dismissed_gradient_is_none() {
    let tape = Tape::new();
    let x = tape.leaf(vector(&[1.0]));
    let gradients = propagate(tape, [Some(&x), None, None], |[dx, ..], _| dx.dismiss("a step")).unwrap();
    assert!(gradients.get(&x).is_none());
}

#[test]
fn errors_keep_their_kind_on_the_way_back() {
    let fail = |error: fn() -> Error| {
        let tape = Tape::new();
        let x = tape.leaf(vector(&[1.0]));
        propagate(tape, [Some(&x), None, None], move |_, _| Err(error())).map(|_| ()).unwrap_err()
    };
    let error = fail(|| Error::Device("out of memory".into()));
    assert!(matches!(error, Error::Device(_)), "{error:?}");
    assert!(error.to_string().contains("sum") && error.to_string().contains("out of memory"), "{error}");
    assert!(matches!(fail(|| Error::shape("copy", "two of three")), Error::Shape { op: "copy", .. }));

    // through a part of the network that is computed again
    let tape = Tape::recomputing();
    let x = tape.leaf(vector(&[1.0]));
    let output = tape
        .segment(&x, |tape, x| {
            let lost = |_: [InputGradient; 1], _: Tensor| Err(Error::Device("the device is lost".into()));
            Ok(tape.record("inner", [x], vector(&[2.0]), lost))
        })
        .unwrap();
    let error = tape.backward(vec![(&output, vector(&[1.0]))]).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Device(text) if text.contains("inner")), "{error:?}");
}
