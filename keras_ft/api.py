"""What the program does, for Python: `from keras_ft import Config, fine_tune`."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host.startup import import_tensorflow
from keras_ft.jobs.check import check
from keras_ft.jobs.compare import compare
from keras_ft.jobs.evaluate import evaluate
from keras_ft.jobs.train import train as fine_tune
from keras_ft.runs.find_model import find_model

if TYPE_CHECKING:
    from keras_ft.serving.trained_classifier import Classifier

__all__ = [
    "Config",
    "UserError",
    "check",
    "compare",
    "evaluate",
    "fine_tune",
    "load_classifier",
]


def load_classifier(model: str | Path) -> "Classifier":
    """Loads a trained classifier.

    Args:
        model: A workdir, a folder in its export/ such as export/onnx, or a model file.

    Returns:
        It has `class_names` and `predict(files)`.

    Raises:
        UserError: There is none, or it can't be read.
    """
    path = find_model(Path(model))
    import_tensorflow()
    from keras_ft.serving import trained_classifier

    return trained_classifier.load_classifier(path)
