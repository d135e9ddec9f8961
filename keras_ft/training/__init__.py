"""The two phases, and what they need: features, losses, callbacks, checkpoints."""
