"""Shows on standard error how far the program is: a bar, or now and then a log line.

Off a terminal there are whole lines only, as a log file wants them.
"""

import contextlib
import logging
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import tqdm

log = logging.getLogger("keras_ft")

SECONDS = 30.0  # between log lines
DELAY = 2.0  # until the bar appears
_WIDTH = 80  # of the bar in a notebook, and on a terminal that does not tell its own
_FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar}| {remaining} left, {rate_noinv_fmt}{postfix}"
)

_Item = TypeVar("_Item")
_bars: weakref.WeakSet[tqdm.tqdm] = weakref.WeakSet()


def can_show_bars() -> bool:
    """Whether standard error is a terminal or the output of a notebook's cell."""
    in_notebook = type(sys.stderr).__module__ == "ipykernel.iostream"
    return in_notebook or sys.stderr.isatty()


def make_bar(title: str, total: int | None, unit: str, num_done: int = 0) -> tqdm.tqdm:
    """Makes a bar below the log, in one line, which is removed when it is closed.

    It appears after `DELAY` seconds, and only where `can_show_bars`.
    """
    bar = tqdm.tqdm(
        desc=title,
        total=total,
        initial=num_done,
        unit=f" {unit}s",
        delay=DELAY,
        leave=False,
        ncols=_find_width(),
        bar_format=_FORMAT if total else None,
        disable=not can_show_bars(),
    )
    _bars.add(bar)
    return bar


@contextlib.contextmanager
def bars_closed() -> Iterator[None]:
    """Removes at the end of the block the bars of what an error has ended."""
    try:
        yield
    finally:
        for bar in list(_bars):
            bar.close()


def _find_width() -> int:
    columns = 0
    with contextlib.suppress(OSError, ValueError):  # some terminals have no number
        if sys.stderr.isatty():
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return (columns or _WIDTH) - 1  # some terminals wrap a line that is full


def show(line: str) -> None:
    """Shows a line: in the log or, if that has none of its level, on standard error."""
    if log.isEnabledFor(logging.INFO):
        log.info("%s", line)
    else:
        tqdm.tqdm.write(line, file=sys.stderr)


class Progress:
    """Shows how much of something is done: a bar, or a log line every `SECONDS`.

    Args:
        title: What is done.
        total: Number of items; None if it is not known.
        unit: What an item is, such as `image`.
        num_done: Number of items that an earlier process has done.
    """

    def __init__(self, title: str, total: int | None, unit: str, num_done: int = 0):
        self._title, self._total, self._unit = title, total, unit
        self._num_done, self._number = num_done, 0
        self._bar = make_bar(title, total, unit, num_done)
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, number: int = 1) -> None:
        """Counts items that are done."""
        self._number += number
        self._bar.update(number)
        now = time.monotonic()
        if self._bar.disable and now - self._last >= SECONDS:
            self._last = now
            log.info("%s", self._describe(self._number / (now - self._begin)))

    def _describe(self, rate: float) -> str:
        done, unit = self._num_done + self._number, self._unit
        if self._total is None:
            return f"{self._title}: {done} {unit}s, {rate:.1f} per second."
        left = tqdm.tqdm.format_interval(max(self._total - done, 0) / rate)
        return (
            f"{self._title}: {done} of {self._total} {unit}s, {rate:.1f} per second, "
            f"{left} left."
        )


def track(
    items: Iterable[_Item], title: str, total: int | None, unit: str, num_done: int = 0
) -> Iterator[_Item]:
    """Yields items, those that remain, and shows their `Progress`."""
    with Progress(title, total, unit, num_done) as progress:
        for item in items:
            yield item
            progress.update()
