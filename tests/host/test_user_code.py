import os
import subprocess
import sys

import pytest
from helpers import ROOT

from keras_ft import cli
from keras_ft.errors import UserError
from keras_ft.host import user_code


@pytest.mark.parametrize(
    "reference", ["my", "py:", "py:my", "py::f", "py:my:f()", "py:a/b:f", "py:1:f"]
)
def test_malformed_references_are_told_without_importing(reference):
    with pytest.raises(UserError, match="--loss must .*Received: ") as error:
        user_code.check_form("loss", reference)
    assert "\n" not in str(error.value)


def test_modules_of_the_working_directory_are_found_and_the_path_stays(write_module):
    write_module("mine", "import beside\nvalue = beside.value")
    write_module("beside", "value = 7")
    path = list(sys.path)
    assert user_code.load("loss", "py:mine:value") == 7
    assert sys.path == path


@pytest.mark.parametrize(
    ("reference", "received"),
    [
        ("py:not_there:f", "not_there"),
        ("py:mine.py:f", "mine.py"),
        ("py:mine:g", "g, which is not in .*mine.py"),
    ],
)
def test_what_is_missing_is_told_in_one_line(write_module, reference, received):
    write_module("mine", "def f(): pass")
    with pytest.raises(UserError, match=f"--loss={reference}.*{received}") as error:
        user_code.load("loss", reference)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["1 / 0", "import not_there", "def f(:"])
def test_what_a_module_raises_has_a_note(write_module, text):
    write_module("mine", text)
    with pytest.raises((ZeroDivisionError, ModuleNotFoundError, SyntaxError)) as raised:
        user_code.load("loss", "py:mine:f")
    assert raised.value.__notes__ == [
        "keras_ft: the code of --loss=py:mine:f raised this."
    ]


def hash_source(reference):
    source = (
        f"from keras_ft.host import user_code as u; print(u.source_of('{reference}'))"
    )
    command = [sys.executable, "-c", source]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, check=True, capture_output=True).stdout


def test_the_source_covers_what_is_imported_from_beside(write_module):
    write_module("mine", "def f():\n    from beside import value\n    return value")
    write_module("beside", "value = 7")
    write_module("other", "value = 7")
    first = hash_source("py:mine:f")
    write_module("other", "value = 8")
    assert hash_source("py:mine:f") == first
    write_module("beside", "value = 8")
    assert hash_source("py:mine:f") != first


@pytest.mark.parametrize("reference", ["py:mine:value", "py:folder.inner.mine:value"])
def test_the_source_covers_folders_without_init(write_module, tmp_path, reference):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "yaml").mkdir()  # has the name of an installed module
    text = "import yaml\nfrom folder.inner import beside\nvalue = beside.value"
    write_module("mine", text)
    write_module("folder/inner/mine", text)
    write_module("folder/inner/beside", "value = 7")
    write_module("folder/inner/other", "value = 7")
    first = hash_source(reference)
    write_module("folder/inner/other", "value = 8")
    assert hash_source(reference) == first
    write_module("folder/inner/beside", "value = 8")
    assert hash_source(reference) != first


def test_the_script_that_runs_is_no_module_to_name():
    with pytest.raises(UserError, match="not the script or notebook that runs"):
        user_code.load("loss", "py:__main__:f")


def test_code_that_changed_after_it_was_imported_is_refused(write_module):
    write_module("mine", "def f(): return 1")
    user_code.load("loss", "py:mine:f")
    write_module("mine", "def f(): return 22")
    with pytest.raises(UserError, match="start Python again"):
        user_code.source_of("py:mine:f")


def test_the_command_shows_the_traceback_and_names_the_flag(
    write_module, capsys, monkeypatch
):
    write_module("mine", "def f():\n    return 1 / 0")

    def train(config):
        with user_code.noting():
            user_code.load("loss", config.train.loss)()

    monkeypatch.setattr("keras_ft.jobs.train.train", train)
    flags = ["--data=photos", "--workdir=run", "--loss=py:mine:f"]
    assert cli.main(["keras_ft", *flags]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert "cli.py" not in lines[1]
    assert "mine.py" in lines[-5]
    assert lines[-1] == "keras_ft: the code of --loss=py:mine:f raised this."


def test_the_note_names_all_flags_of_the_file(write_module):
    write_module("mine", "def f():\n    return 1 / 0\ndef g(): pass")
    write_module("other", "def h(): pass")
    with user_code.noting():
        user_code.load("loss", "py:mine:g")  # of an earlier run
    with pytest.raises(ZeroDivisionError) as raised, user_code.noting():
        f = user_code.load("callbacks", "py:mine:f")
        user_code.load("augment", "py:mine:g")
        user_code.load("backbone", "py:other:h")
        f()
    assert raised.value.__notes__ == [
        "keras_ft: the code of --callbacks=py:mine:f, --augment=py:mine:g raised this."
    ]


def test_other_exceptions_are_not_taken_for_the_users(monkeypatch, capsys):
    def train(config):
        with user_code.noting():
            raise ZeroDivisionError

    monkeypatch.setattr("keras_ft.jobs.train.train", train)
    with pytest.raises(ZeroDivisionError):
        cli.main(["keras_ft", "--data=photos", "--workdir=run"])
