"""The network and its training, in plain PyTorch: no Ray; CPU or GPU."""
