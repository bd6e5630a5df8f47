"""What the programs here share: threads, synchronisation, medians."""

import statistics
import time

import torch

# Precisions of a CUDA device: dtype of the tensors (or of autocast), and whether float32 products may use TF32.
PRECISIONS = {
    "f32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}


def set_precision(name):
    """Allows or forbids TF32 and returns the dtype."""
    dtype, tf32 = PRECISIONS[name]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return dtype


def describe(device):
    """One line for the heading of a table."""
    if device == "cuda":
        return f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}"
    return f"PyTorch {torch.__version__}, CPU, {torch.get_num_threads()} threads"


def seconds(call, device, samples):
    """Seconds of each call, with the device idle before and after it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(samples):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return times


def median(call, device, samples):
    """Median seconds of a call after one that is not counted."""
    seconds(call, device, 1)
    return statistics.median(seconds(call, device, samples))
