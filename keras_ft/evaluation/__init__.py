"""Labels and probabilities to metrics and calibration."""
