"""Every process that has this folder on PYTHONPATH computes without oneDNN; no environment variable does that."""

import torch

torch.backends.mkldnn.enabled = False
