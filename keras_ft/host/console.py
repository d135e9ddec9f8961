"""What the program shows on the terminal: log lines."""

import io
import logging
import os
import sys

import tqdm

from keras_ft.host.text import printable

log = logging.getLogger("keras_ft")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Handler(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.tqdm.external_write_mode(self.stream):  # above the bars
            super().emit(record)


def prepare_streams() -> None:
    """Makes standard input, output and error usable, however they are set up.

    Those that are closed become empty or are discarded: else the next file that is
    opened would get the output. Characters that the encoding lacks are escaped.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def configure_logging() -> None:
    """Writes the log of this package to standard error, one message per line."""
    if not log.handlers:
        handler = _Handler(sys.stderr)
        handler.setFormatter(_Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        # Each model that predicts traces two functions, the second for a last batch of
        # another size, and each `gather` of several workers traces a small one.
        tensorflow_log = logging.getLogger("tensorflow")
        tensorflow_log.addFilter(lambda record: "retracing" not in record.getMessage())
    # TensorFlow's exporter adds a handler to the root logger, which would repeat
    # every line.
    log.propagate = False
