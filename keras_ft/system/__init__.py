"""Files, signals, console, devices."""
