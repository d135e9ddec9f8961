"""The command line: read the flags, pick a mode, one call each.

TensorFlow is imported inside the modes, after everything that can be checked
without it, so that help and mistakes are answered at once.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_ft import flags, report, runtime
from keras_ft.config import Config, UserError

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
    from keras_ft import workdir

    metrics = workdir.load_finished(config)
    if metrics is None:
        metrics = _fine_tune(config)
    else:
        log.info("%s holds this run, finished.", config.run.workdir)
    print(report.summarize_run(metrics, config.run.workdir))


def _fine_tune(config: Config) -> dict:
    from keras_ft.data import load_splits

    seconds = {}
    with runtime.measure(seconds, "data"):
        splits = load_splits(config.data, config.run.seed)
    with runtime.measure(seconds, "start-up"):
        runtime.import_tensorflow()
        from keras_ft.train import fine_tune
    return fine_tune(config, splits, seconds)


def _evaluate(config: Config) -> None:
    runtime.import_tensorflow()
    from keras_ft.predict import evaluate

    print(report.summarize_split(evaluate(config)))


def _predict(config: Config) -> None:
    runtime.import_tensorflow()
    from keras_ft.predict import predict

    predict(config)


def _export(config: Config) -> None:
    from keras_ft import workdir
    from keras_ft.data import load_splits

    folder = Path(config.run.workdir)
    of_run = workdir.load_config(folder)
    splits = load_splits(of_run.data, of_run.run.seed)

    runtime.import_tensorflow()
    from keras_ft.export import export_again

    version = export_again(folder, splits.test, of_run.data.batch_size)
    print(version)


_MODES = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
}
