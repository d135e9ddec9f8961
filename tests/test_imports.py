"""Imports point one way, and what answers at once imports no TensorFlow or Ray."""

import subprocess
import sys

from helpers import ROOT

# Their modules are imported before TensorFlow is.
NO_TENSORFLOW = (
    *("api", "cli", "cluster", "comparison", "config", "data", "errors", "evaluation"),
    *("catalog", "host"),
    *("report.model_card", "report.page", "report.plots", "report.terminal"),
    *("runs", "system.workers", "tasks"),
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


def test_packages_import_only_those_below_them():
    done = subprocess.run(["lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
