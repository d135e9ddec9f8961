"""Encoded images to batches: decode, augment, input pipeline."""
