"""What the program shows on the terminal: log lines."""

import logging
import sys

from keras_ft.host.text import printable

log = logging.getLogger("keras_ft")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def configure_logging() -> None:
    """Writes the log of this package to standard error, one message per line."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
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
