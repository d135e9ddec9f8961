"""Computes metrics and calibration from labels and probabilities."""
