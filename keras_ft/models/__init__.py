"""Backbones, the classifier around them, initial weights."""
