"""A trained model at work: uint8 images in, predictions out."""
