"""The machine: files, locks, signals, console, processor, start of TensorFlow."""
