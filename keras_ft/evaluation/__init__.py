"""Computes metrics from labels and probabilities."""
