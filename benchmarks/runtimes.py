"""Do exports answer where this program, and its packages, are not installed?

Makes a fresh virtual environment for each runtime, with nothing but the runtime, NumPy
and Pillow (for a SavedModel TensorFlow), and runs the script of docs/serving.md on the
test images of a finished run: the export, its preprocess.py and the image files are all
it gets. Prints how the answers compare with those of the Keras model.

    python run.py --flagfile=configs/binary.cfg --workdir=runs/binary \\
      --export_formats=saved_model,litert,litert_float16,litert_int8,onnx,openvino
    python benchmarks/runtimes.py --workdir=runs/binary
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
from measure import ROOT, format_table

from keras_ft.catalog.formats import FORMATS
from keras_ft.data.examples import Examples
from keras_ft.host.startup import import_tensorflow
from keras_ft.jobs.export import load_images
from keras_ft.runs.find_model import find_model
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.workdir import load_config

_PILLOW = ("numpy", "pillow")
# By the name of the script in docs/serving.md.
PACKAGES = {
    "saved_model": ("tensorflow",),
    "litert": ("ai-edge-litert", *_PILLOW),
    "onnx": ("onnxruntime", *_PILLOW),
    "openvino": ("openvino", *_PILLOW),
}
# Follows the script: answers every file whose name is an argument.
_ANSWER = """
import sys

output, *files = sys.argv[1:]
parts = []
for start in range(0, len(files), 32):
    images = [open(file, "rb").read() for file in files[start : start + 32]]
    parts.append(predict(*images))
np.save(output, np.concatenate(parts))
"""


def read_caller(name: str) -> str:
    """A script of docs/serving.md up to its last loop, which prints an answer."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    [code] = re.findall(
        rf"<!-- caller {name} -->\n```python\n(.*?)\nfor row in", text, re.DOTALL
    )
    return code


def make_environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """Makes a virtual environment; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def run(*arguments: object, cwd: Path | None = None) -> None:
    """Runs a command that finds no package of this process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    command = list(map(str, arguments))
    subprocess.run(command, check=True, cwd=cwd, env=environment)


def answer(python: Path, artifact: Path, caller: str, test: Examples) -> np.ndarray:
    """What a script answers in an environment: float32 [N, K]."""
    folder = artifact if artifact.is_dir() else artifact.parent
    with tempfile.TemporaryDirectory() as scratch:
        script, output = Path(scratch) / "caller.py", Path(scratch) / "answers.npy"
        script.write_text(caller + _ANSWER)
        # preprocess.py is beside the export, not beside the script.
        path = (
            f"import sys; sys.path.insert(0, '.'); exec(open({str(script)!r}).read())"
        )
        files = [Path(file).resolve() for file in test.files]
        run(python, "-c", path, output, *files, cwd=folder)
        return np.load(output)


def predict_with_keras(workdir: Path, test: Examples) -> np.ndarray:
    """The answers of model.keras, which decodes and resizes as in training."""
    import_tensorflow()
    from keras_ft.serving.trained_classifier import load_classifier

    classifier = load_classifier(RunPaths(workdir).model)
    return classifier.predict(test.files)


def measure_size(folder: Path) -> str:
    """Megabytes of the packages in an environment."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f}"


def main() -> None:
    """Prints a table of the formats that the workdir has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    workdir = parser.parse_args().workdir
    test = load_images(load_config(workdir), RunPaths(workdir))
    expected = predict_with_keras(workdir, test)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        pythons: dict[str, Path] = {}
        for name in FORMATS:
            if not RunPaths(workdir).exported_versions(name):
                continue
            of_caller = name if name in PACKAGES else name.partition("_")[0]
            environment = Path(scratch) / of_caller
            if of_caller not in pythons:
                packages = PACKAGES[of_caller]
                pythons[of_caller] = make_environment(environment, packages)
            artifact = find_model(workdir / "export" / name).resolve()
            python, caller = pythons[of_caller], read_caller(of_caller)
            answers = answer(python, artifact, caller, test)
            same = answers.argmax(1) == expected.argmax(1)
            rows.append(
                [
                    *(name, " ".join(PACKAGES[of_caller]), measure_size(environment)),
                    *(str(len(same)), f"{same.mean():.4f}"),
                    f"{np.abs(answers - expected).max():.0e}",
                ]
            )
            print(rows[-1], file=sys.stderr)
    header = ["format", "installed", "MB", "images", "same answers", "difference"]
    print(format_table([header, *rows]))


if __name__ == "__main__":
    main()
