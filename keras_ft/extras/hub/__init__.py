"""Networks of KerasHub, and of checkpoints of PyTorch that it converts."""
