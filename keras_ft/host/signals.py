"""How SIGTERM and Ctrl-C end the program."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from keras_ft.host import files

_CHILD_SECONDS = 60.0  # in which a child process must end when it is asked to
_SET_SIGNAL_AT_DEATH_OF_PARENT = 1  # `PR_SET_PDEATHSIG` of Linux: see prctl(2)
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_children: list[subprocess.Popen] = []


@contextlib.contextmanager
def child_process(process: subprocess.Popen) -> Iterator[None]:
    """Ends a child process at the end of the block, or if a signal ends the program."""
    _children.append(process)
    try:
        yield
    finally:
        _end(process)
        _children.remove(process)


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Lets a signal end this process when its parent ends, or has ended, in any way."""
    ctypes.CDLL(None).prctl(_SET_SIGNAL_AT_DEATH_OF_PARENT, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Undoes at the end of the block what happens in it to signal handlers."""
    previous = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        yield
    finally:
        _set_handlers(previous)


def _set_handlers(handlers: dict[signal.Signals, Any]) -> None:
    # Python lets only the main thread handle signals.
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """In this block SIGTERM and Ctrl-C end the program; a second one ends it at once.

    The first signal ends the child processes and removes unfinished files. The exit
    status is 128 plus the number of the signal, and the last line says what happened.

    The process ends inside the signal handler. An exception instead would surface
    wherever the program happens to be, and inside TensorFlow's C++ code it can crash
    the interpreter. A process that is killed leaves only valid files behind, so nothing
    else needs to be done.
    """
    stderr = os.dup(2)  # file descriptor 2 is redirected while TensorFlow is imported
    is_second = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal is_second
        if not is_second:
            is_second = True  # a signal that interrupts this
            for process in _children:
                with contextlib.suppress(Exception):
                    _end(process)
            files.remove_partial()
        name = signal.Signals(number).name
        line = f"\nkeras_ft: stopped by {name}. The same command resumes from here.\n"
        with contextlib.suppress(OSError):  # the terminal may be closed
            os.write(stderr, line.encode())
        os._exit(128 + number)

    try:
        with handlers_kept():
            _set_handlers(dict.fromkeys(_STOPPING, stop))
            yield
    finally:
        os.close(stderr)


@contextlib.contextmanager
def handled_elsewhere() -> Iterator[None]:
    """In this block SIGTERM and Ctrl-C do nothing by themselves.

    For a server with its own handlers, which raises the signal again after its end.
    """
    with handlers_kept():
        _set_handlers(dict.fromkeys(_STOPPING, lambda *_: None))
        yield


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
