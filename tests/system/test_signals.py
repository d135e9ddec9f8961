import signal
import subprocess
import sys

import pytest

from keras_ft.system import signals

PROGRAM = """
import os, signal, sys
from keras_ft.system import signals

class Ended:
    def __del__(self):
        # No exception comes out of here, as none may cross TensorFlow's C++ code.
        signal.raise_signal({number})

with signals.stoppable():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as TensorFlow is imported
    with signals.cleanup(lambda: print("first", flush=True)):
        with signals.cleanup(lambda: print("done", flush=True)):
            pass
        with signals.cleanup(lambda: 1 / 0), signals.cleanup(lambda: {last}):
            try:
                Ended()
            finally:
                print("goes on", flush=True)
"""


def run(number, last):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number), last=last)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_program_wherever_it_is(name, status):
    ended = run(signal.Signals[name], 'print("last", flush=True)')
    assert ended.returncode == status
    assert ended.stdout == "last\nfirst\n"
    assert ended.stderr == (
        f"\nkeras_ft: stopped by {name}. The same command goes on from here.\n"
    )


def test_a_second_signal_kills_at_once():
    ended = run(15, "signal.raise_signal(15)")
    assert ended.returncode == -15
    assert ended.stdout == ""


def test_an_exception_cleans_up_and_goes_on():
    calls = []
    with pytest.raises(KeyError), signals.cleanup(lambda: calls.append(1)):
        raise KeyError
    with signals.cleanup(lambda: calls.append(2)):
        pass
    assert calls == [1]
    assert signals._cleanups == []


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.stoppable():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
