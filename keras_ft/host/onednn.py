"""oneDNN, a library of faster CPU kernels that TensorFlow can use: on or off."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Literal

from keras_ft.host import cpu

log = logging.getLogger("keras_ft")

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# `auto`: as `choose` says, for a new run; a resumed one has what its record says, where
# None leaves it to TensorFlow.
Choice = bool | Literal["auto"] | None

_VALUES = {"1": True, "true": True, "0": False, "false": False}
_WORDS = {True: "on", False: "off"}


def choose() -> bool | None:
    """Whether oneDNN is to be on; None leaves that to TensorFlow.

    The user's variable comes first. Without it, TensorFlow turns oneDNN on only on CPUs
    with instructions for neural networks, such as AVX512-VNNI; on x86, its kernels need
    no more than AVX2. On ARM, where TensorFlow turns it on for Neoverse V1 only, it
    decides: training was not measured there.
    """
    if VARIABLE in os.environ:
        return _requested_by_user()
    return True if "avx2" in cpu.flags() else None


def _requested_by_user() -> bool | None:
    """What the variable says; TensorFlow ignores any other value."""
    return _VALUES.get(os.environ.get(VARIABLE, "").lower())


@contextlib.contextmanager
def requested(choice: Choice) -> Iterator[None]:
    """TensorFlow, if it is imported in this block, turns oneDNN on or off as chosen.

    It reads the variable once, when it is imported. Afterwards the variable is as
    before: child processes would take it for the user's.
    """
    before = os.environ.get(VARIABLE)
    on = _resolve(choice)
    if on is not None:
        os.environ[VARIABLE] = str(int(on))
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _resolve(choice: Choice) -> bool | None:
    return choose() if choice == "auto" else choice


def is_on() -> bool:
    """Whether TensorFlow uses oneDNN, whoever imported it."""
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def log_state(choice: Choice) -> None:
    """Logs whether TensorFlow uses oneDNN; warns if that is not what was chosen."""
    on, chosen = is_on(), _resolve(choice)
    if chosen not in (None, on):
        log.warning(
            "oneDNN is %s, not %s as %s: TensorFlow was imported before, or was built "
            "without oneDNN. Speed and the rounding of results may differ.",
            _WORDS[on],
            _WORDS[not on],
            "chosen" if choice == "auto" else "when the run began",
        )
        return
    reason = ""
    if choice == on:  # of a resumed run
        reason = ", as when the run began"
        if _requested_by_user() == (not on):
            reason += f"; {VARIABLE}={os.environ[VARIABLE]} is not used"
    log.info("oneDNN: %s%s.", _WORDS[on], reason)
