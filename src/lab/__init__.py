"""A PyTorch Lightning + Hydra research template; `train.py` is the map."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # importing onnxruntime writes a device id to $HOME, and calls home
