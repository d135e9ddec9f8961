"""What the program does, for Python: `from keras_ft import Config, fine_tune`."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_ft.config.config import Config
from keras_ft.errors import UserError
from keras_ft.jobs import check as check_job
from keras_ft.jobs import compare as compare_job
from keras_ft.jobs import evaluate as evaluate_job
from keras_ft.jobs.check import CheckResult
from keras_ft.jobs.evaluate import EvaluateMetrics
from keras_ft.jobs.train import train
from keras_ft.runs.metrics import RunMetrics
from keras_ft.runs.models import find_model
from keras_ft.system.startup import import_tensorflow

if TYPE_CHECKING:
    from keras_ft.comparison.summary import Comparison
    from keras_ft.serving.classifier import Classifier


def fine_tune(config: Config) -> RunMetrics:
    """Trains, selects, evaluates and exports a classifier in `config.run.workdir`.

    An unfinished run is resumed, a finished one is not repeated.

    Args:
        config: A config of mode `train`.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: A mistake that the user can mend.
    """
    _check_mode(config, "train")
    return train(config)


def check(config: Config) -> CheckResult:
    """Looks for problems with a data set.

    Args:
        config: A config of mode `check`.

    Returns:
        The examples, the findings, and what would keep training from starting.

    Raises:
        UserError: A mistake that the user can mend.
    """
    _check_mode(config, "check")
    return check_job.check(config)


def evaluate(config: Config) -> EvaluateMetrics:
    """Measures a trained classifier on labelled images.

    Args:
        config: A config of mode `evaluate`.

    Returns:
        Metrics, and the numbers of images that were used and skipped.

    Raises:
        UserError: A mistake that the user can mend.
    """
    _check_mode(config, "evaluate")
    return evaluate_job.evaluate(config)


def compare(config: Config) -> "Comparison":
    """Trains every setting of a sweep and ranks the settings.

    Args:
        config: A config of mode `compare`.

    Returns:
        The runs and their ranking.

    Raises:
        UserError: A mistake that the user can mend.
    """
    _check_mode(config, "compare")
    return compare_job.compare(config)


def load_classifier(model: str | Path) -> "Classifier":
    """Loads a trained classifier.

    Args:
        model: A workdir, an export/saved_model folder or a model.keras.

    Returns:
        It has `class_names` and `predict(files)`.

    Raises:
        UserError: There is none, or it can't be read.
    """
    path = find_model(Path(model))
    import_tensorflow()
    from keras_ft.serving import classifier

    return classifier.load_classifier(path)


def _check_mode(config: Config, mode: str) -> None:
    if config.run.mode != mode:
        raise UserError(
            f"The config must have mode={mode!r}. Received: {config.run.mode!r}"
        )
