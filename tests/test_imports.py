"""Imports point one way, and what answers at once imports no TensorFlow or Ray."""

import dataclasses
import re
import subprocess
import sys

from helpers import ROOT

from keras_ft import cli
from keras_ft.catalog.backbones import SOURCES
from keras_ft.catalog.clusters import CLUSTERS
from keras_ft.catalog.formats import FORMATS

# Their modules are imported before TensorFlow is.
NO_TENSORFLOW = (
    *("api", "cli", "catalog", "comparison", "config", "data", "errors", "evaluation"),
    *("extras.cluster", "extras.formats.descriptions", "extras.hub.presets"),
    *("host", "kinds", "runs", "system.workers"),
    *("report.model_card", "report.page", "report.plots", "report.terminal"),
)


def modules():
    """Names of all modules of the package."""
    package = ROOT / "keras_ft"
    paths = (path.relative_to(package) for path in package.rglob("*.py"))
    return {".".join(path.with_suffix("").parts) for path in paths}


def test_the_early_modules_need_no_tensorflow():
    early = [
        f"keras_ft.{name}"
        for name in modules()
        if any(f"{name}.".startswith(f"{one}.") for one in NO_TENSORFLOW)
    ]
    for package in NO_TENSORFLOW:
        assert any(f"{name}.".startswith(f"keras_ft.{package}.") for name in early)
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'ray'], None))\n"
        "import keras_ft.report.page, keras_ft.report.model_card\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"import {', '.join(early)}\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_the_core_names_the_extras_in_its_tables_alone():
    tables = {"catalog.backbones", "catalog.clusters", "catalog.formats", "cli"}
    naming = {
        name
        for name in modules()
        if not name.startswith("extras.")
        and "keras_ft.extras"
        in (ROOT / "keras_ft" / f"{name.replace('.', '/')}.py").read_text()
    }
    assert naming == tables


def test_what_the_tables_name_exists():
    rows = [*FORMATS.values(), *SOURCES.values()]
    names = [name for row in rows for name in dataclasses.astuple(row)]
    names += [name for row in CLUSTERS.values() for name in row]
    names += cli._MODES.values()
    named = [name for name in names if ":" in str(name)]
    assert len(named) > 20
    for name in named:
        path, _, function = name.partition(":")
        text = (ROOT / f"{path.replace('.', '/')}.py").read_text()
        assert re.search(rf"^(def )?{function}\b", text, re.MULTILINE), name


def test_packages_import_only_those_below_them():
    done = subprocess.run(["lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
