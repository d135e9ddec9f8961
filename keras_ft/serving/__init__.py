"""A trained model to exports, and to predictions."""
