"""What the Dockerfile says is true of this repository. Nothing here runs Docker."""

import configparser
import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.specifiers import SpecifierSet

from keras_ft.config import flags

TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = re.findall(r"^([A-Z]+) +(.+)$", TEXT, re.MULTILINE)
COPIED = [
    source
    for name, value in INSTRUCTIONS
    if name == "COPY"
    for source in value.split()[:-1]
]


def value_of(instruction):
    """The only value of an instruction."""
    [value] = [value for name, value in INSTRUCTIONS if name == instruction]
    return value


@pytest.fixture
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_it_copies_all_that_an_installation_and_its_command_need(setup):
    [readme] = re.findall(r"file: (\S+)", setup["metadata"]["long_description"])
    assert {"setup.cfg", "pyproject.toml", "keras_ft", "configs", readme} <= {*COPIED}
    assert setup["metadata"]["license_files"] in COPIED
    assert [source for source in COPIED if not (ROOT / source).exists()] == []


def test_the_files_that_it_copies_are_not_ignored():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored, *exceptions = [line for line in lines if line and line[0] != "#"]
    assert ignored == "*"
    kept = {line[1:] for line in exceptions if line[0] == "!"}
    assert kept == {*COPIED}
    for pattern in (line for line in exceptions if line[0] != "!"):
        assert not any(fnmatch(source, pattern) for source in COPIED)


def test_its_python_is_one_that_the_package_supports(setup):
    [version] = re.findall(r"^python:([\d.]+)-slim$", value_of("FROM"))
    assert version in SpecifierSet(setup["options"]["python_requires"])


def test_its_command_is_a_run_in_the_mounted_folder(setup, monkeypatch):
    [program] = json.loads(value_of("ENTRYPOINT"))
    assert f"{program} = " in setup["options.entry_points"]["console_scripts"]

    monkeypatch.chdir(ROOT)  # in the image, configs/ is in the working folder, too
    config = flags.parse([program, *json.loads(value_of("CMD"))])
    assert config.run.mode == "train"
    [home] = re.findall(r"HOME=(\S+)", value_of("ENV"))
    workdir = Path(value_of("WORKDIR")) / config.run.workdir
    assert home in map(str, workdir.parents)


def test_the_commands_in_the_docs_are_flags_of_the_program(setup):
    page = (ROOT / "docs" / "install.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^docker run .* keras_ft( .*)?$", page, re.MULTILINE)
    assert any(commands)
    for command in filter(None, commands):  # the others are the one above
        flags.parse(["keras-ft", *shlex.split(command)])
    named = re.findall(r"EXTRAS=\[([\w,]+)\]", TEXT + page)
    extras = {extra for names in named for extra in names.split(",")}
    assert extras <= {*setup["options.extras_require"]}
