"""`--mode=compare`: every setting of a sweep, trained and ranked."""

from keras_ft.comparison.compare import Comparison
from keras_ft.comparison.compare import compare as run_comparison
from keras_ft.config.config import Config


def compare(config: Config) -> Comparison:
    """Trains every setting with every seed, and ranks the settings."""
    return run_comparison(config)
