"""How SIGTERM and Ctrl-C end the program."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_cleanups: list[Callable[[], object]] = []


@contextlib.contextmanager
def cleanup(call: Callable[[], object]) -> Iterator[None]:
    """Calls `call` if an exception ends the block, or a signal the program."""
    _cleanups.append(call)
    try:
        yield
    except BaseException:
        call()
        raise
    finally:
        _cleanups.remove(call)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """In this block SIGTERM and Ctrl-C end the program; a second one does at once.

    The exit status is 128 and the signal's number. The process ends in the signal's
    handler: an exception would come up wherever the program happens to be, and inside
    TensorFlow's C++ code it can crash the interpreter. What a kill leaves behind is
    valid at any time, so only `cleanup` is left to do.
    """
    stderr = os.dup(2)  # the import of TensorFlow turns 2 away for a while

    def stop(number: int, _frame: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        for call in reversed(_cleanups):
            with contextlib.suppress(Exception):
                call()
        name = signal.Signals(number).name
        line = f"\nkeras_ft: stopped by {name}. The same command goes on from here.\n"
        with contextlib.suppress(OSError):  # a terminal that is gone
            os.write(stderr, line.encode())
        os._exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # Python lets only the main thread handle signals
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(stderr)
