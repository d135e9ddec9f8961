"""Runs and predictions on a Ray cluster."""
