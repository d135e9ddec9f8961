"""keras_ft: fine-tune a Keras Applications network and get a model that serves."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_ft.api import (
        Config,
        UserError,
        check,
        compare,
        evaluate,
        fine_tune,
        load_classifier,
    )

__all__ = [
    "Config",
    "UserError",
    "check",
    "compare",
    "evaluate",
    "fine_tune",
    "load_classifier",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use, so that submodules import no more than they need.
    if name in __all__:
        from keras_ft import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
