#!/usr/bin/env python3
"""scikit-learn's handwritten digits (UCI, 1,797 pictures of 8x8 pixels and 17 grey values) as PNG files, a folder a class:

    digits.py DIR
"""

import os
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for i, (image, label) in enumerate(zip(digits.images, digits.target)):
    folder = os.path.join(sys.argv[1], str(label))
    os.makedirs(folder, exist_ok=True)
    Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(os.path.join(folder, f"{i:04}.png"))
