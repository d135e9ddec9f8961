"""The command line: reads the flags, calls the job of the mode, prints its result."""

import atexit
import contextlib
import gc
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image

from keras_ft.comparison.summary import summarize
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import console, files, progress, signals, user_code
from keras_ft.host.text import printable
from keras_ft.report import terminal
from keras_ft.runs.run_metrics import RunMetrics

log = logging.getLogger("keras_ft")

# The job of each mode, imported when it is asked for.
_MODES = {
    "train": "keras_ft.jobs.train:train",
    "check": "keras_ft.jobs.check:check",
    "evaluate": "keras_ft.jobs.evaluate:evaluate",
    "predict": "keras_ft.jobs.predict:predict",
    "export": "keras_ft.jobs.export:export",
    "compare": "keras_ft.jobs.compare:compare",
    "serve": "keras_ft.extras.server.serve:serve",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program, given its name and flags; `sys.argv` by default.

    Returns:
        The exit status: 0, or 1 after a mistake that the user can mend, or an error in
        the user's own code.
    """
    console.prepare_streams()
    console.configure_logging()
    # At exit the garbage collector would go through all that TensorFlow has made, which
    # takes seconds, and free what ends with the process anyway.
    atexit.register(gc.freeze)
    # The audit reports such images.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        with signals.stoppable():
            config = flags.parse(sys.argv if argv is None else argv)
            if isinstance(config, str):
                print(config)
            else:
                job = pkgutil.resolve_name(_MODES[config.run.mode])
                with files.own_temporary_files(), progress.bars_closed():
                    _print_result(job(config), config)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has ended
        _discard_output()
        return 1
    except MemoryError:
        print("keras_ft: There is not enough memory.", file=sys.stderr)
        return 1
    except UserError as error:
        print(printable(f"keras_ft: {error}"), file=sys.stderr)
        return 1
    except Exception as error:
        known = user_code.describe(error)
        if not known and (known := files.explain_full_disk(error)):
            known = f"keras_ft: {known}"
            _discard_output()
        if not known:
            raise
        print(printable(known), file=sys.stderr)
        return 1
    return 0


def _discard_output() -> None:
    """Lets Python write nothing more to standard output, which it does at its end."""
    with contextlib.suppress(OSError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_result(result: Any, config: Config) -> None:
    """Prints what a job returned, and raises what is wrong with it.

    That is data that training can't start with, or a model or export that is too bad.
    """
    workdir = config.run.workdir
    match config.run.mode:
        case "train":
            summary = terminal.summarize_run(result, workdir)
        case "check":
            found = result.examples, result.findings, result.obstacle
            summary = terminal.summarize_check(*found, result.image_size)
        case "evaluate":
            summary = terminal.summarize_evaluation(result)
        case "export":
            summary = terminal.summarize_exports(result, workdir)
        case "compare":
            summary = summarize(result)
        case _:  # prints itself
            return
    print(printable(summary))
    if config.run.mode == "train":
        _check_run(result, config)
    elif config.run.mode == "check" and result.obstacle:
        raise result.obstacle
    elif config.run.mode == "export":
        terminal.check_exports(result)


def _check_run(metrics: RunMetrics, config: Config) -> None:
    accuracy = metrics["test"]["accuracy"]
    required = config.selection.assert_accuracy_at_least
    if accuracy < required:
        raise UserError(
            f"--assert_accuracy_at_least={required:g} on test must hold. "
            f"Received: {accuracy:.4f}; the model is not for use"
        )
    exports, wanted = metrics["exports"], set(config.export.export_formats)
    missing = ", ".join(sorted(wanted - set(exports)))
    if missing:
        log.info("This run did not export %s; --mode=export does.", missing)
    terminal.check_exports({n: row for n, row in exports.items() if n in wanted})
