"""The command line: read the flags, pick a mode, one call each.

TensorFlow is imported inside the modes, after everything that can be checked
without it, so that help and mistakes are answered at once.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_ft import flags, report, runtime, workdir
from keras_ft.config import Config, UserError
from keras_ft.data import Split, load_images, load_source, load_splits, load_test

log = logging.getLogger("keras_ft")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        argv: The program's name and flags; default `sys.argv`.

    Returns:
        The exit status: 0, or 1 after a mistake that the user can mend.
    """
    runtime.prepare()
    try:
        config = flags.parse(sys.argv if argv is None else argv)
        if config is None:
            print(flags.help_text())
        else:
            _MODES[config.run.mode](config)
    except UserError as error:
        print(f"keras_ft: {error}", file=sys.stderr)
        return 1
    return 0


def _train(config: Config) -> None:
    metrics = workdir.load_finished(config)
    if metrics is None:
        metrics = _fine_tune(config)
    else:
        log.info("%s holds this run, finished.", config.run.workdir)
    print(report.summarize_run(metrics, config.run.workdir))


def _fine_tune(config: Config) -> dict:
    seconds = {}
    with runtime.measure(seconds, "data"):
        splits = load_splits(config.data, config.run.seed)
    with runtime.measure(seconds, "start-up"):
        runtime.import_tensorflow()
        from keras_ft.train import fine_tune
    return fine_tune(config, splits, seconds)


def _evaluate(config: Config) -> None:
    model = _check_files(config)
    test, class_names = load_test(config.data)
    test = workdir.leave_out_seen(test, model)
    runtime.import_tensorflow()
    from keras_ft.predict import evaluate

    metrics = evaluate(config, model, test, class_names)
    print(report.summarize_split(metrics))


def _predict(config: Config) -> None:
    model = _check_files(config)
    images = load_images(config.data)
    runtime.import_tensorflow()
    from keras_ft.predict import predict

    predict(config, model, images)


def _check_files(config: Config) -> Path:
    """Finds the model, and checks that the output can be written."""
    workdir.check_output(config.apply.output, config.run.overwrite)
    return workdir.find_model(Path(config.apply.model or config.run.workdir))


def _export(config: Config) -> None:
    folder = Path(config.run.workdir)
    of_run = workdir.load_config(folder)
    images = _images_to_check(of_run)
    runtime.import_tensorflow()
    from keras_ft.export import export_again

    print(export_again(folder, images, of_run.data.batch_size))


def _images_to_check(of_run: Config) -> Split:
    """Images on which a new export is compared with the model of a run."""
    try:
        return load_splits(of_run.data, of_run.run.seed).test
    except UserError as error:
        log.warning("The check uses builtin:faces, since the run's own: %s", error)
        data = dataclasses.replace(of_run.data, data="builtin:faces")
        return load_source(data)[0]["train"]


_MODES = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
}
