"""Shows on standard error how far the program is: a bar, or now and then a log line."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

log = logging.getLogger("keras_ft")

SECONDS = 30.0  # between log lines
DELAY = 2.0  # until the bar appears

_Item = TypeVar("_Item")


def track(
    items: Iterable[_Item], total: int | None, num_done: int, unit: str
) -> Iterator[_Item]:
    """Yields items, and shows their number, rate and the time left.

    On a terminal it is a bar, which appears after `DELAY` seconds; elsewhere it is a
    log line every `SECONDS`.

    Args:
        items: Those that remain, of `total` ones; None if their number is not known.
        num_done: Number of those that an earlier process has done.
        unit: What an item is, such as `image`.
    """
    if sys.stderr.isatty():
        yield from tqdm.tqdm(
            items, total=total, initial=num_done, unit=f" {unit}s", delay=DELAY
        )
        return
    begin = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS:
            last = now
            log.info(_describe(num_done + number, total, number / (now - begin), unit))


def _describe(number: int, total: int | None, rate: float, unit: str) -> str:
    if total is None:
        return f"{number} {unit}s, {rate:.1f} per second."
    left = tqdm.tqdm.format_interval(max(total - number, 0) / rate)
    return f"{number} of {total} {unit}s, {rate:.1f} per second, {left} left."
