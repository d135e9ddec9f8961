"""The command line: reads the flags, calls the job of the mode, prints its result."""

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from PIL import Image

from keras_ft.comparison.summary import summarize
from keras_ft.config import flags
from keras_ft.config.config import Config
from keras_ft.errors import UserError
from keras_ft.host import console, signals
from keras_ft.host.text import printable
from keras_ft.jobs import check, compare, evaluate, export, predict, serve, train
from keras_ft.report import terminal

log = logging.getLogger("keras_ft")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        argv: The program's name and flags. Defaults to `sys.argv`.

    Returns:
        The exit status: 0, or 1 after a mistake that the user can mend.
    """
    console.configure_logging()
    # At exit the garbage collector would go through all that TensorFlow has made, which
    # takes seconds, and free what ends with the process anyway.
    atexit.register(gc.freeze)
    # The audit reports such images.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        with signals.stoppable():
            config = flags.parse(sys.argv if argv is None else argv)
            if config is None:
                print(flags.help_text())
            else:
                _MODES[config.run.mode](config)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        print(printable(f"keras_ft: {error}"), file=sys.stderr)
        return 1
    return 0


def _train(config: Config) -> None:
    metrics = train.train(config)
    print(printable(terminal.summarize_run(metrics, config.run.workdir)))
    accuracy = metrics["test"]["accuracy"]
    required = config.selection.assert_accuracy_at_least
    if accuracy < required:
        raise UserError(
            f"--assert_accuracy_at_least={required:g} on test must hold. "
            f"Received: {accuracy:.4f}; the model is not for use"
        )
    wanted = set(config.export.export_formats)
    missing = wanted - set(metrics["exports"])
    if missing:
        log.info(
            "This run did not export %s; --mode=export does.",
            ", ".join(sorted(missing)),
        )
    terminal.check_exports(
        {name: row for name, row in metrics["exports"].items() if name in wanted}
    )


def _check(config: Config) -> None:
    result = check.check(config)
    summary = terminal.summarize_check(
        result.examples, result.findings, result.obstacle
    )
    print(printable(summary))


def _evaluate(config: Config) -> None:
    metrics = evaluate.evaluate(config)
    print(printable(terminal.summarize_evaluation(metrics)))


def _export(config: Config) -> None:
    results = export.export(config)
    print(printable(terminal.summarize_exports(results, config.run.workdir)))
    terminal.check_exports(results)


def _compare(config: Config) -> None:
    print(printable(summarize(compare.compare(config))))


_MODES = {
    "train": _train,
    "check": _check,
    "evaluate": _evaluate,
    "predict": predict.predict,
    "export": _export,
    "compare": _compare,
    "serve": serve.serve,
}
