"""The network and its training, in torch alone: runs without Ray, on CPU or GPU."""
