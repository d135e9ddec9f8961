"""The command line: reads the flags, calls the job of the mode, prints its result."""

import atexit
import gc
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from keras_ft.comparison.summary import Comparison, summarize
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import console, signals, user_code
from keras_ft.host.text import printable
from keras_ft.report import terminal
from keras_ft.runs.run_metrics import ExportResult, RunMetrics

if TYPE_CHECKING:
    from keras_ft.jobs.check import CheckResult
    from keras_ft.jobs.evaluate import EvaluateMetrics

log = logging.getLogger("keras_ft")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        argv: The program's name and flags. Defaults to `sys.argv`.

    Returns:
        The exit status: 0, or 1 after a mistake that the user can mend, or an error in
        the user's own code.
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
                job, print_result = _MODES[config.run.mode]
                result = pkgutil.resolve_name(job)(config)
                if print_result:
                    print_result(result, config)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        print(printable(f"keras_ft: {error}"), file=sys.stderr)
        return 1
    except Exception as error:
        of_user = user_code.describe(error)
        if not of_user:
            raise
        print(console.printable(of_user), file=sys.stderr)
        return 1
    return 0


def _print_run(metrics: RunMetrics, config: Config) -> None:
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


def _print_check(result: "CheckResult", _: Config) -> None:
    summary = terminal.summarize_check(
        result.examples, result.findings, result.obstacle
    )
    print(printable(summary))


def _print_evaluation(metrics: "EvaluateMetrics", _: Config) -> None:
    print(printable(terminal.summarize_evaluation(metrics)))


def _print_exports(results: dict[str, ExportResult], config: Config) -> None:
    print(printable(terminal.summarize_exports(results, config.run.workdir)))
    terminal.check_exports(results)


def _print_comparison(comparison: Comparison, _: Config) -> None:
    print(printable(summarize(comparison)))


# The job of each mode, imported when it is asked for, and what prints its result.
_MODES: dict[str, tuple[str, Callable[[Any, Config], None] | None]] = {
    "train": ("keras_ft.jobs.train:train", _print_run),
    "check": ("keras_ft.jobs.check:check", _print_check),
    "evaluate": ("keras_ft.jobs.evaluate:evaluate", _print_evaluation),
    "predict": ("keras_ft.jobs.predict:predict", None),
    "export": ("keras_ft.jobs.export:export", _print_exports),
    "compare": ("keras_ft.jobs.compare:compare", _print_comparison),
    "serve": ("keras_ft.extras.server.serve:serve", None),
}
