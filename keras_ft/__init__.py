"""keras_ft: fine-tune a Keras Applications network and get a model that serves."""

from keras_ft.api import Config, fine_tune, load_classifier

__all__ = ["Config", "fine_tune", "load_classifier"]
__version__ = "0.1.0"
