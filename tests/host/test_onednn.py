"""oneDNN is on where it is faster, and the user or the resumed run decides first."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

from keras_ft.host import cpu, onednn


@pytest.fixture
def machine(monkeypatch):
    """Sets the CPU's features and the user's variable."""

    def make(cpu_flags=(), variable=None):
        monkeypatch.setattr(cpu, "flags", lambda: set(cpu_flags))
        monkeypatch.delenv(onednn.VARIABLE, raising=False)
        if variable is not None:
            monkeypatch.setenv(onednn.VARIABLE, variable)

    return make


@pytest.mark.parametrize(
    ("cpu_flags", "variable", "expected"),
    [
        (["avx", "avx2"], None, True),
        (["avx"], None, None),
        (["asimd", "sve", "bf16"], None, None),  # ARM
        ([], None, None),
        (["avx2"], "0", False),
        (["avx2"], "False", False),
        (["asimd"], "1", True),
        (["asimd"], "true", True),
        (["avx2"], "perhaps", None),
        (["avx2"], "", None),
    ],
)
def test_it_is_on_with_avx2_unless_the_user_decided(
    machine, cpu_flags, variable, expected
):
    machine(cpu_flags, variable)
    assert onednn.choose() is expected


@pytest.mark.parametrize("variable", [None, "0", "true", "perhaps"])
@pytest.mark.parametrize(
    ("choice", "inside"), [(True, "1"), (False, "0"), (None, "variable")]
)
def test_the_variable_is_set_in_the_block_only(machine, variable, choice, inside):
    machine(["avx2"], variable)
    with onednn.requested(choice):
        expected = variable if inside == "variable" else inside
        assert os.environ.get(onednn.VARIABLE) == expected
    assert os.environ.get(onednn.VARIABLE) == variable


def test_the_variable_is_restored_after_an_error(machine):
    machine(["avx2"])
    with pytest.raises(KeyError), onednn.requested("auto"):
        assert os.environ[onednn.VARIABLE] == "1"
        raise KeyError
    assert onednn.VARIABLE not in os.environ


IMPORT = """
import os, sys
from keras_ft.host import cpu
from keras_ft.host import onednn
from keras_ft.host import startup
cpu.flags = lambda: {"avx2"}
startup.import_tensorflow({"auto": "auto", "on": True, "off": False}[sys.argv[1]])
print(onednn.is_on(), os.environ.get(onednn.VARIABLE))
"""


@pytest.mark.parametrize(
    ("choice", "variable", "expected"),
    [
        ("auto", None, "True None"),
        ("auto", "0", "False 0"),
        ("off", "1", "False 1"),
        ("on", "0", "True 0"),
    ],
)
def test_tensorflow_does_as_chosen(choice, variable, expected):
    environment = os.environ | {onednn.VARIABLE: variable or ""}
    if variable is None:
        del environment[onednn.VARIABLE]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, choice],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


WARNING = (
    "oneDNN is {}, not {} as {}: TensorFlow was imported before, or was built without "
    "oneDNN. Speed and the rounding of results may differ."
)


@pytest.mark.parametrize(
    ("is_on", "choice", "variable", "expected"),
    [
        (True, "auto", None, "oneDNN: on."),
        (False, "auto", None, WARNING.format("off", "on", "chosen")),
        (False, "auto", "0", "oneDNN: off."),
        (True, "auto", "0", WARNING.format("on", "off", "chosen")),
        (True, True, None, "oneDNN: on, as when the run began."),
        (False, False, None, "oneDNN: off, as when the run began."),
        (False, False, "0", "oneDNN: off, as when the run began."),
        (
            *(True, True, "0"),
            "oneDNN: on, as when the run began; TF_ENABLE_ONEDNN_OPTS=0 is not used.",
        ),
        (True, False, None, WARNING.format("on", "off", "when the run began")),
        (True, False, "1", WARNING.format("on", "off", "when the run began")),
        # Runs of earlier versions, which did not choose.
        (True, None, None, "oneDNN: on."),
        (False, None, None, "oneDNN: off."),
        (False, None, "0", "oneDNN: off."),
    ],
)
def test_the_log_says_what_holds_and_warns_if_it_was_not_chosen(
    machine, monkeypatch, caplog, is_on, choice, variable, expected
):
    machine(["avx2"], variable)
    monkeypatch.setattr(onednn, "is_on", lambda: is_on)
    with caplog.at_level("INFO"):
        onednn.log_state(choice)
    [record] = caplog.records
    assert record.getMessage() == expected
    assert (record.levelname == "WARNING") == (", not " in expected)
