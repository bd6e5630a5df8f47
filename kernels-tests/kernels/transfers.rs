//! What goes between host and device: read-backs that are waited for later.

use poa_gpu::Error;
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
