"""keras_ft: fine-tune a Keras Applications network and get a model that serves."""

from typing import Any

__all__ = ["Config", "fine_tune", "load_classifier"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late, so that modules which need little import little.
    if name in __all__:
        from keras_ft import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
