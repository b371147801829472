"""A PyTorch Lightning + Hydra research template; `train.py` is the map."""
