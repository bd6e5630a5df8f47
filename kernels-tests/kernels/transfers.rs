//! What goes between host and device: 8-bit values that become floats there, read-backs that are waited for later.

use poa_gpu::Error;
use poa_gpu::ops::lookup::Bytes;
use poa_gpu::tensor::{DType, Device, PendingRead, Tensor, fill};

use crate::support::{devices, random};

#[test]
fn tensors_are_read_back_as_they_were_when_it_was_asked_for() {
    for device in devices() {
        let (values, whole) = (random(1, 35), random(2, 60));
        let first = Tensor::from_slice(&device, &[5, 7], &values).unwrap();
        let none = Tensor::empty(&device, &[0, 3], DType::F32).unwrap();
        let rows = Tensor::from_slice(&device, &[20, 3], &whole).unwrap().slice(0, 2..9).unwrap();
        let pending = PendingRead::of(&device, &[&first, &none, &rows, &first]).unwrap();
        let one = rows.read_later().unwrap();
        fill(&first, 0).unwrap();
        fill(&rows, 0).unwrap();
        let all = pending.wait_each().unwrap();
        assert_eq!(all, [values.clone(), Vec::new(), whole[6..27].to_vec(), values], "{}", device.kind());
        assert_eq!(one.wait().unwrap(), whole[6..27]);
        assert_eq!(PendingRead::of(&device, &[&none]).unwrap().wait_each().unwrap(), [[0f32; 0]]);
        let columns = first.slice(1, 0..2).unwrap();
        assert!(matches!(PendingRead::of(&device, &[&first, &columns]), Err(Error::Shape { .. })));
    }
}

#[test]
fn waits_for_the_last_work_are_counted() {
    let devices = devices();
    let Some(Device::Gpu(gpu)) = devices.iter().find(|device| device.kind() == "gpu") else { return };
    for device in [Device::Gpu(gpu.clone()), Device::rehearsal(gpu.caps())] {
        let Device::Gpu(gpu) = &device else { unreachable!("both are") };
        let x = Tensor::zeros(&device, &[8], DType::F32).unwrap();
        let counted = |before: u64| gpu.drains() - before;
        let before = gpu.drains();
        let early = x.read_later().unwrap();
        fill(&x, 1).unwrap();
        early.wait().unwrap();
        assert_eq!(counted(before), 0, "the second filling was still to do");
        x.read_later().unwrap().wait().unwrap();
        assert_eq!(counted(before), 1);
        x.to_vec::<f32>().unwrap();
        device.synchronize().unwrap();
        assert_eq!(counted(before), 3);
    }
}

#[test]
fn bytes_become_what_a_table_says_to_the_bit() {
    let values: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let shapes: [&[usize]; 8] = [
        &[2, 3, 8, 8],
        &[1, 1, 1, 1],
        &[3, 2, 5, 7],
        &[7, 5, 3, 3],
        &[1, 64, 2, 3],
        &[4, 1, 17, 1],
        &[5, 3],
        &[0, 3, 4],
    ];
    for device in devices() {
        for shape in shapes {
            let (count, channels) = (shape.iter().product::<usize>(), shape[1]);
            let table = random(count as u64, 256 * channels);
            // beginning within a larger tensor
            let held =
                Tensor::from_slice(&device, &[channels + 1, 256], &[vec![0.0; 256], table.clone()].concat());
            let held = held.unwrap().slice(0, 1..channels + 1).unwrap();
            // at addresses that are no word's as well
            for start in [0, 1, 2] {
                let values = &values[start..start + count];
                let bytes = Bytes::upload(&device, values).unwrap();
                let got = bytes.look_up(&held, shape).unwrap();
                let plane = shape[2..].iter().product::<usize>();
                let of = |(i, v): (usize, &u8)| table[256 * (i / plane % channels) + usize::from(*v)];
                let want: Vec<f32> = values.iter().enumerate().map(of).collect();
                let label = format!("{shape:?} from {start} on {}", device.kind());
                assert!(got.shape() == shape && got.to_vec::<f32>().unwrap() == want, "{label}");
                assert!(got.fences_intact().unwrap(), "{label}");
            }
        }
        let table = Tensor::zeros(&device, &[3, 256], DType::F32).unwrap();
        let bytes = Bytes::upload(&device, &values[..24]).unwrap();
        for wrong in [&[2, 3, 2, 3][..], &[3, 2, 2, 2], &[24]] {
            assert!(matches!(bytes.look_up(&table, wrong), Err(Error::Shape { .. })), "{wrong:?}");
        }
    }
}
