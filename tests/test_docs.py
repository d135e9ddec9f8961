"""What the documentation names exists: flags, files, links, headings, API names."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT

import keras_ft
from keras_ft.catalog.backbones import BACKBONES
from keras_ft.config import flags

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
# Flags of absl, ruff and pip-audit, and the placeholder in --name=value; of ray and
# sbatch.
OF_OTHER_TOOLS = {"help", "name", "check", "require-hashes"}
OF_OTHER_TOOLS |= {"head", "address", "min-nodes", "generate"}
OF_OTHER_TOOLS |= {"nodes", "ntasks-per-node", "exclusive"}
OF_OTHER_TOOLS |= {"ntasks-per-node", "gpus-per-node", "requeue", "nodes"}
OF_OTHER_TOOLS |= {"kill-on-bad-exit", "data-binary"}
# Of docker and pip.
OF_OTHER_TOOLS |= {"build-arg", "rm", "user", "no-index", "find-links"}
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)
FOLDERS = ("benchmarks", "configs", "docs", "keras_ft", "tests", "tools", ".ci")


def repository_files():
    """Absolute paths of the files that git may know."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    return [path.as_posix() for path in files]


def flags_of_scripts_in(text):
    """Flags of the benchmarks that a text names."""
    scripts = (ROOT / "benchmarks").glob("*.py")
    code = "".join(path.read_text() for path in scripts if path.name in text)
    # Some calls of add_argument continue on the next line.
    return set(re.findall(r"add_argument\(\s*\"--([\w-]+)", code))


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


@each_page
def test_every_flag_exists(page):
    text = page.read_text()
    known = set(re.findall(r"--(\w+)", flags.help_text()))
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", text))
    assert named <= known | flags_of_scripts_in(text) | OF_OTHER_TOOLS


@each_page
def test_every_command_is_one_that_the_program_takes(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = page.read_text().replace("\\\n", " ")
    commands = re.findall(r"^ *python run\.py (--.*)$", text, re.MULTILINE)
    commands += re.findall(r"`python run\.py (--[^`]*)`", text)
    for command in commands:
        flags.parse(["run.py", *shlex.split(command)])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_flag_in_the_comments_of_a_config_exists(config):
    known = set(re.findall(r"--(\w+)", flags.help_text()))
    assert set(re.findall(r"--([a-z]\w*)", config.read_text())) <= known


@each_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in headings(file), link


@each_page
def test_every_file_of_the_repository_exists(page):
    """Scripts, modules and configs, by their path or the end of it."""
    text = re.sub(r"https?://\S+", "", page.read_text())
    named = set(re.findall(r"[\w./-]*\w\.(?:py|cfg)\b", text))
    named = {name for name in named if not name.endswith("flags.cfg")}  # of a run
    named = {name for name in named if not name.startswith("my_")}  # the user's
    named |= {
        name.rstrip("/.")
        for name in re.findall(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*", text)
    }
    files = repository_files()
    for name in named:
        assert (ROOT / name).exists() or any(
            file.endswith(f"/{name.removeprefix('../')}") for file in files
        ), name


def test_every_benchmark_is_listed():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert script.name in text


def test_every_backbone_is_listed():
    text = (ROOT / "docs" / "models.md").read_text()
    assert [name for name in BACKBONES if f"`{name}`" not in text] == ["tiny"]


def test_every_config_is_listed():
    text = (ROOT / "docs" / "training.md").read_text()
    for config in CONFIGS:
        assert f"`{config.name}`" in text


def test_every_extra_is_listed():
    text = (ROOT / "docs" / "install.md").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == sorted(
        setup["options.extras_require"]
    )


def test_the_map_lists_the_packages_in_the_order_of_the_contract():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    listed = re.findall(r"`(\w+)(?:/|\.py)`", " ".join(cells))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert listed == setup["importlinter:contract:layers"]["layers"].split()


def test_the_architecture_shows_the_program_in_full():
    page = (ROOT / "docs" / "architecture.md").read_text()
    [shown] = re.findall(
        r"<!-- phases -->\n```python\n(.*?)```\n<!-- end -->", page, re.DOTALL
    )
    assert shown == (ROOT / "keras_ft" / "training" / "phases.py").read_text()


@each_page
def test_every_name_imported_from_the_package_is_public(page):
    for names in re.findall(r"from keras_ft import (.*)", page.read_text()):
        assert set(names.split(", ")) <= set(keras_ft.__all__)


def test_readme_shows_a_part_of_the_example_that_is_run():
    [short], [whole] = (
        re.findall(
            r"<!-- python -->\n```python\n(.*?)```\n<!-- end -->",
            path.read_text(),
            re.DOTALL,
        )
        for path in (ROOT / "README.md", ROOT / "docs" / "api.md")
    )
    assert whole.startswith(short)


@pytest.mark.parametrize("page", ["README.md", "docs/compare.md"])
def test_a_summary_is_shown_as_the_program_prints_it(page):
    labels = re.findall(r"^([A-Z][\w ]*?) {2,}\S", (ROOT / page).read_text(), re.M)
    code = "".join(path.read_text() for path in (ROOT / "keras_ft").rglob("*.py"))
    assert len(labels) >= 3
    for label in labels:
        assert f'"{label}  ' in code, label
