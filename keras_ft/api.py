"""What the program does, for Python: `from keras_ft import Config, fine_tune`."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_ft.comparison.summary import Comparison
from keras_ft.config.fields import check_value
from keras_ft.config.rules import check_data
from keras_ft.config.settings import FIELDS, Config
from keras_ft.data.tables import format_table
from keras_ft.errors import UserError
from keras_ft.host.keras_settings import own_keras_settings
from keras_ft.host.startup import import_tensorflow
from keras_ft.jobs import check as check_job
from keras_ft.jobs import compare as compare_job
from keras_ft.jobs import evaluate as evaluate_job
from keras_ft.jobs import train as train_job
from keras_ft.runs.find_model import find_model
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.runs.workdir import write_table

if TYPE_CHECKING:
    import keras

    from keras_ft.serving.trained_classifier import Classifier


@own_keras_settings()
def fine_tune(
    config: Config,
    callbacks: Sequence["keras.callbacks.Callback"] = (),
    table: Any = None,
) -> RunMetrics:
    """Trains, selects, evaluates and exports a classifier, see `jobs.train`.

    Args:
        config: The requested run.
        callbacks: Keras callbacks for both phases, see docs/python.md.
        table: The examples, instead of `data`: a DataFrame or a dict of columns, as in
            a CSV file. They are written to table-HASH.csv in the workdir.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Flags, data, weights or the workdir can't be used, or training
            diverged.
    """
    if config.run.mode != "train":
        raise UserError(
            f"fine_tune needs a Config of mode train. Received: {config.run.mode}; of "
            "other modes, check, evaluate and compare are functions of keras_ft"
        )
    if table is not None:
        _check_no_data(config)
        config = config.replace(data=str(write_table(config, format_table(table))))
    check_data("train", config.data.data)
    return train_job.train(config, callbacks)


@own_keras_settings()
def check(config: Config, table: Any = None) -> check_job.CheckResult:
    """Looks for problems in the data, see `jobs.check`; `table` as in `fine_tune`."""
    with _with_table(config, "check", table) as config:
        return check_job.check(config)


@own_keras_settings()
def evaluate(config: Config, table: Any = None) -> dict[str, Any]:
    """Measures a classifier, see `jobs.evaluate`; `table` as in `fine_tune`."""
    with _with_table(config, "evaluate", table) as config:
        return evaluate_job.evaluate(config)


@own_keras_settings()
def compare(config: Config) -> Comparison:
    """Trains every setting of a sweep and ranks the settings, see `jobs.compare`."""
    return compare_job.compare(config)


@contextlib.contextmanager
def _with_table(config: Config, mode: str, table: Any) -> Iterator[Config]:
    """The config, whose `data` is a temporary file if there is a table."""
    if table is None:
        check_data(mode, config.data.data)
        yield config
        return
    _check_no_data(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_text(format_table(table), "utf-8", "surrogateescape")
        yield config.replace(data=str(path))


def _check_no_data(config: Config) -> None:
    if config.data.data:
        raise UserError(
            "data and table exclude each other: give one of them. "
            f"Received: data={config.data.data}"
        )


@own_keras_settings()
def load_classifier(model: str | Path) -> "Classifier":
    """Loads a trained classifier, which has `class_names` and `predict(files)`.

    `model` is a workdir, a folder in its export/ such as export/onnx, or a model file.

    Raises:
        UserError: There is none, or it can't be read.
    """
    path = find_model(Path(check_value(FIELDS["model"], model)))
    import_tensorflow()
    from keras_ft.serving import trained_classifier

    return trained_classifier.load_classifier(path)
