"""Inference with a trained model: uint8 images to predictions."""
