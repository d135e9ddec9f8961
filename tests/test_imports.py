"""Imports point one way, and what answers at once imports no TensorFlow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_ft import flags

ROOT = Path(__file__).parents[1]

# A module imports only modules that stand before it.
ORDER = (
    "backbones",
    "config",
    "signals",
    "files",
    "rules",
    "unpack",
    "sources",
    "scan",
    "splitting",
    "data",
    "flags",
    "workdir",
    "checkpoint",
    "runtime",
    "evaluate",
    "calibration",
    "report",
    "plots",
    "page",
    "sweep",
    "ranking",
    "learning_curve",
    "compare_report",
    "compare_page",
    "compare",
    "decode",
    "audit",
    "failures",
    "augment",
    "pipeline",
    "tiny",
    "fold",
    "model",
    "gradcam",
    "gallery",
    "run_page",
    "features",
    "readers",
    "fetch",
    "weights",
    "losses",
    "optim",
    "callbacks",
    "export",
    "predict",
    "phases",
    "results",
    "train",
    "api",
    "cli",
)
NO_TENSORFLOW = ORDER[: ORDER.index("decode")]


def imported(module):
    """Names of our modules that a module imports, anywhere in it."""
    tree = ast.parse((ROOT / "keras_ft" / f"{module}.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_ft":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("keras_ft."):
            names.add(node.module.removeprefix("keras_ft."))
    return names


def test_every_module_has_its_place():
    files = {path.stem for path in (ROOT / "keras_ft").glob("*.py")}
    assert files - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_one_way(module):
    assert imported(module) <= set(ORDER[: ORDER.index(module)])


def test_prediction_knows_no_training():
    assert not imported("predict") & {"train", "optim", "callbacks", "weights"}


def test_the_early_modules_need_no_tensorflow():
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras'], None))\n"
        f"from keras_ft import {', '.join(NO_TENSORFLOW)}, cli\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_readme_names_only_flags_that_exist():
    text = (ROOT / "README.md").read_text()
    known = set(re.findall(r"--(\w+)", flags.help_text()))
    # Of flagfiles in general, of ruff, and of a benchmark.
    known |= {"help", "name", "check", "table"}
    assert set(re.findall(r"(?<![\w-])--([a-z]\w*)", text)) <= known
