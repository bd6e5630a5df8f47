"""Runs an ONNX model with onnxruntime on the images of a file of features, in parts of several sizes, and prints the largest
difference of each output: MODEL FEATURES [BATCH ...]"""

import sys

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

try:
    import onnx
except ImportError:
    onnx = None

model, features = sys.argv[1:3]
batches = [int(n) for n in sys.argv[3:]]
if onnx is not None:
    onnx.checker.check_model(model, full_check=True)
    print("checked")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
expected = load_file(features)
images = expected["images"]
for output in session.get_outputs():
    name = "patches" if output.name == "patch_tokens" else output.name
    worst = 0.0
    for batch in batches or [len(images)]:
        for first in range(0, len(images) - batch + 1, batch):
            part = slice(first, first + batch)
            (found,) = session.run([output.name], {"images": images[part]})
            want = expected[name][part]
            assert found.shape == want.shape, (output.name, found.shape, want.shape)
            worst = max(worst, float(np.abs(found - want).max()))
            assert np.isfinite(found).all()
    print(output.name, worst)
