"""What several tests share: small images, scripts, stand-ins."""

import csv
import importlib.util
import re
import string
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_ft.data.examples import Dataset, Examples, Finding
from keras_ft.data.file_facts import FACTS
from keras_ft.kinds.task import Task

ROOT = Path(__file__).parents[1]

# Begins a script, given the folder of a test module, on a machine of two devices.
TWO_CPUS = """
import json, os, sys
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
from keras_ft.host import console
from keras_ft.host import startup
console.configure_logging()
startup.import_tensorflow()
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
"""
TWO_PHASES = {
    "head_epochs": 3,
    "head_learning_rate": 0.01,
    "finetune_epochs": 2,
    "finetune_learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_epochs": 0,
}
COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 40, 30)}


def make_task(num_classes: int, **changes: Any) -> Task:
    """A task of the classes a, b and so on; `changes` are other fields of it."""
    names = tuple(string.ascii_lowercase[:num_classes])
    return Task(**({"class_names": names} | changes))


def make_labelled(labels, splits=None, groups=None, num_classes=None):
    """Examples of one multiclass task; files 0.png, 1.png, ... that do not exist."""
    count = len(labels)
    names = np.array([f"{i}.png" for i in range(count)], object)
    return Examples(
        names,
        names,
        (make_task(num_classes or max(labels) + 1),),
        (np.array(labels),),
        np.array(splits or [""] * count, object),
        np.array(groups or [""] * count, object),
    )


def make_examples(
    paths: Sequence[str],
    files: Sequence[str] | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Examples:
    """Makes examples of one task with one label each, without splits and groups.

    By default the files are the paths, and the labels are -1, none.
    """
    empty = np.full(len(paths), "", object)
    return Examples(
        paths=np.array(paths, object),
        files=np.array(paths if files is None else files, object),
        tasks=(Task(class_names=tuple(class_names)),),
        targets=(np.array([-1] * len(paths) if labels is None else labels, np.int64),),
        splits=empty,
        groups=empty,
    )


def make_dataset(examples: Examples, findings: Sequence[Finding] = ()) -> Dataset:
    """A data set of examples whose files have no facts."""
    return Dataset(examples, np.zeros(len(examples), FACTS), findings, examples.files)


def write_images(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    """Writes PNG files of one colour with noise, 24 x 20 px."""
    rng = np.random.default_rng(sum(colour))
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(rng.normal(colour, 25, (24, 20, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def make_flags(folder: Path) -> dict:
    """Flags of a run of seconds on `images` in a folder, with other files there."""
    return {
        "data": str(folder / "images"),
        "workdir": str(folder / "run"),
        "cache_dir": str(folder / "cache"),
        "backbone": "tiny",
        "weights": ("none",),
        "image_size": 16,
        "batch_size": 8,
        "head_epochs": 0,
        "solve_head": False,  # most tests are about epochs
        "finetune_epochs": 2,
        "finetune_learning_rate": 0.01,
    }


def make_arguments(flags: dict) -> list[str]:
    """Flags as arguments of `cli.main`."""
    flags = flags | {"weights": ",".join(flags["weights"])}
    return ["keras_ft", *(f"--{name}={value}" for name, value in flags.items())]


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def leave_out_export(setattr: Callable[..., None]) -> None:
    """Leaves out exports and report, which take most of the time of a tiny run."""
    from keras_ft.report import model_card, run_page
    from keras_ft.serving import exports

    def write_exports(config, model, description, paths, reference):
        folder = paths.export / "saved_model"
        version = folder / str(len(list(folder.glob("*/"))) + 1)
        version.mkdir(parents=True)
        path = str(version.relative_to(paths.folder))
        return {"saved_model": export_result(path=path)}

    setattr(exports, "write_exports", write_exports)
    setattr(run_page, "write_report", lambda *args: None)
    setattr(model_card, "write_model_card", lambda *args: None)


def optimize_graphs(do: bool) -> None:
    """Sets whether TensorFlow optimises graphs, a quarter of the time of a tiny run."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not do})


def export_result(**changes: Any) -> dict[str, Any]:
    """A row of `exports` in metrics.json."""
    row = {"path": "export/saved_model/1", "error": "", "difference": 1e-7}
    row |= {"agreement": 1.0, "accuracy": 0.75, "bytes": 1_000_000}
    row |= {"milliseconds": 2.0, "images_per_second": 600.0, "files_per_second": 300.0}
    return row | changes


def installed_formats() -> tuple[str, ...]:
    """The formats of an export whose packages are installed."""
    from keras_ft.catalog.formats import FORMATS

    return tuple(
        name
        for name, row in FORMATS.items()
        if all(map(importlib.util.find_spec, row.packages))
    )


class FakeTraining:
    """Stands in for `train_phase`.

    Attributes:
        phases: The phases that were trained. All weights of the n-th one's model are n.
        of_label: By phase, the probability that it predicts for the right class.
        error: Raised after this phase has begun, once.
    """

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.of_label = {"head": 0.8, "finetune": 0.9}
        self.error: dict[str, Exception] = {}

    def train_phase(self, run, phase, earlier, examples, classifier):
        """Has the arguments and the result of `training.phases.train_phase`."""
        from keras_ft.training.phase_result import PhaseResult, calibrate

        self.phases.append(phase.name)
        if phase.name in self.error:
            raise self.error.pop(phase.name)
        for weight in classifier.weights:
            weight.assign(np.full(weight.shape, len(self.phases)))
        task, of_label = examples.task, self.of_label[phase.name]
        num_classes = len(task.class_names)
        others = (1 - of_label) / (num_classes - 1)
        by_label = others + (of_label - others) * np.eye(num_classes)
        is_loss = run.recipe.selection.monitor.endswith("loss")
        probabilities = {
            name: {task.name: by_label[examples.split(name).labels].astype("float32")}
            for name in ("val", "test")
        }
        return PhaseResult(
            name=phase.name,
            epoch=phase.epochs,
            epochs=phase.epochs,
            seconds=1.0,
            features_seconds=0.25,
            monitored=1 - of_label if is_loss else of_label,
            probabilities=probabilities,
            calibrated=calibrate(examples.val, probabilities),
        )


def reason_not_used(item, backbone="tiny"):
    """The one line that says why an item of `--weights` was not used."""
    from keras_ft.models import weights

    _, found = weights.load_backbone(backbone, (32, 32), [item, "none"])
    assert found.used == "none"
    [attempt] = found.attempts
    assert attempt["weights"] == item
    assert "\n" not in attempt["error"]
    # Folders and URLs can have any length.
    assert len(re.sub(r"/\S+/", "", attempt["error"])) <= 200
    return attempt["error"]


def png_header(width, height):
    """A PNG file that promises a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT5\xaf\x06\x1e"


def start_run(config, dataset=None, record=None, **changes):
    """A run in progress on one processor; `changes` are what a new one decides."""
    from keras_ft.catalog.backbones import Weights
    from keras_ft.catalog.preference import find_image_size
    from keras_ft.config.recipe import resolve
    from keras_ft.host.timer import Timer
    from keras_ft.runs.paths import RunPaths
    from keras_ft.runs.record import RunRecord
    from keras_ft.runs.run import Run
    from keras_ft.system.devices import Compute

    if record is None:
        decided = {"weights": Weights("none"), "precision": "float32"} | changes
        record = RunRecord(**decided)
    recipe = resolve(config)
    size = find_image_size(config.model.backbone, "none")
    recipe = recipe.with_image_size(config.data.image_size or size)
    phases = recipe.make_phases(len(dataset.examples.train)) if dataset else ()
    paths = RunPaths(config.run.workdir)
    return Run(recipe, paths, record, Compute(None, "float32"), phases, Timer())


def write_run(config, examples, findings=(), record=None, **changes):
    """Begins a run, as training does, or resumes it; returns the run."""
    from keras_ft.runs.workdir import begin_or_resume

    dataset = make_dataset(examples, findings)
    run = start_run(config, dataset, record, **changes)
    begin_or_resume(run, dataset)
    return run


def run_metrics(loss, accuracy=None, **others):
    """The content of a metrics.json of two classes."""
    accuracy = 1 - loss if accuracy is None else accuracy
    split = {"loss": loss, "accuracy": accuracy, "macro_f1": accuracy}
    split |= {"balanced_accuracy": accuracy, "ece": 0.0}
    split |= {"per_class": {}, "confusion_matrix": []}
    split |= {"accuracy_interval": [accuracy, accuracy]}
    before = {"loss": loss, "ece": 0.0}
    calibration = {"temperature": 1.0, "fitted_on": "val", "reason": "few images"}
    metrics = {
        "class_names": ["a", "b"],
        "num_examples": {"train": 8, "val": 50, "test": 50},
        "val": split,
        "test": split,
        "calibration": calibration | {"before": {"val": before, "test": before}},
        "seconds": {"total": 4.0},
        "model_bytes": 7,
        "warnings": [],
        "inference_images_per_second": 5.0,
        "weights_used": "none",
        "weights_attempts": [],
        "best_phase": "finetune",
        "best_epoch": 1,
        "monitor": "val_loss",
        **{"audit": {}, "phases": {}, "exports": {}},
        **{"warnings": [], "weights_origin": "", "weights_terms": ""},
    }
    return metrics | others
