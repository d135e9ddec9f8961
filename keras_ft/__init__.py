"""keras_ft: fine-tune a Keras Applications network and get a model that serves."""

__version__ = "0.1.0"
