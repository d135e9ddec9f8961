"""What the program shows on the terminal: log lines, printable text."""

import logging
import re
import sys

log = logging.getLogger("keras_ft")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def printable(text: str) -> str:
    """Escapes the characters that control a terminal, except line feeds and tabs.

    File and class names, which appear in log lines and errors, come from anyone.
    """
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text
    )


def configure_logging() -> None:
    """Writes the log of this package to standard error, one message per line."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    # TensorFlow's exporter adds a handler to the root logger, which would repeat
    # every line.
    log.propagate = False
