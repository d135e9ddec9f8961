"""What the program does, for Python: `from keras_ft import Config, fine_tune`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_ft.config import flags
from keras_ft.config import schema as config_module
from keras_ft.data.dataset import check_trainable, load_dataset, make_splits
from keras_ft.runs import workdir
from keras_ft.system import runtime

if TYPE_CHECKING:
    from keras_ft.serving.predict import Classifier

log = logging.getLogger("keras_ft")


def Config(**values: Any) -> config_module.Config:
    """Makes a checked config, as the command line would.

    Args:
        **values: Flags by name, as `--help` lists them; `weights="starter"` and
            `weights=("imagenet", "starter")` both do.

    Raises:
        UserError: A flag is unknown or malformed, or breaks a rule.
    """
    runtime.prepare()
    arguments = [f"--{name}={flags.to_text(value)}" for name, value in values.items()]
    return flags.parse(["keras_ft", *arguments])


def fine_tune(config: config_module.Config) -> dict[str, Any]:
    """Trains, selects, evaluates and exports a classifier in `config.run.workdir`.

    An unfinished run goes on, a finished one is not repeated.

    Args:
        config: What is asked for, see `Config`.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Something that the user can mend.
    """
    runtime.prepare()
    with workdir.locked(Path(config.run.workdir)):
        metrics = workdir.load_finished(config)
        if metrics is None:
            return _run(config)
        log.info("%s holds this run, finished.", config.run.workdir)
        return metrics


def _run(config: config_module.Config) -> dict[str, Any]:
    seconds = {}
    with runtime.measure(seconds, "data"):
        source = load_dataset(config.data)
        check_trainable(source, config.data)
    with runtime.measure(seconds, "start-up"):
        runtime.import_tensorflow()
        from keras_ft.audit import audit
        from keras_ft.jobs import train
    with runtime.measure(seconds, "audit"):
        cache_dir = Path(config.data.cache_dir).expanduser()
        source = audit.look_closer(source, cache_dir, audit.CHEAP)
        splits = make_splits(source, config.data, config.run.seed)
        findings = audit.find_all(splits, source, audit.CHEAP)
    if findings:
        log.info("The audit found, all in audit.csv:\n%s", audit.summarize(findings))
    return train.fine_tune(config, splits, seconds, findings)


def load_classifier(model: str | Path) -> "Classifier":
    """Reads a trained classifier.

    Args:
        model: A workdir, an export/saved_model folder or a model.keras.

    Returns:
        It has `class_names` and `predict(files)`.

    Raises:
        UserError: There is none, or it can't be read.
    """
    runtime.prepare()
    path = workdir.find_model(Path(model))
    runtime.import_tensorflow()
    from keras_ft.serving import predict

    return predict.load_classifier(path)
