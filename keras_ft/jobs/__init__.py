"""One module per mode, each read from top to bottom."""
