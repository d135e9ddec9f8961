"""A trained model to artifacts, and artifacts to predictions."""
