"""One phase: cached features, losses, callbacks, checkpoints."""
