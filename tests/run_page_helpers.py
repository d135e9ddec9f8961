"""A run whose report tests render and change."""

import dataclasses
import functools
import itertools
import os

import keras
import numpy as np
from helpers import make_dataset, make_examples, make_flags, start_run
from PIL import Image
from report_helpers import HtmlPage, make_metrics, predict

from keras_ft.catalog.backbones import Weights
from keras_ft.config.settings import Config
from keras_ft.host import files
from keras_ft.kinds.calibration import Calibrated
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.report import run_page
from keras_ft.runs.record import RunRecord


def make_splits(folder, class_names, per_class):
    """Writes some images of each class and split; the folder's name is not UTF-8."""
    folder = os.fsdecode(os.fsencode(folder) + b"/\xff<b>&'\"")
    os.makedirs(folder)
    classes, rng = range(len(class_names)), np.random.default_rng(0)
    rows = [*itertools.product(("train", "val", "test"), classes, range(per_class))]
    paths = [f"{folder}/{split}-{label}-{i}.png" for split, label, i in rows]
    for path in paths:
        pixels = rng.integers(0, 255, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(os.fsencode(path))
    splits, labels, _ = zip(*rows, strict=True)
    examples = make_examples(paths, labels=labels, class_names=class_names)
    return examples.with_splits(np.array(splits, object))


@functools.cache
def make_model(tasks):
    keras.utils.set_random_seed(1)
    return make_classifier(make_backbone("tiny", (16, 16)), tasks, dropout=0.0)


class Run:
    """What a report shows, to be changed by tests."""

    def __init__(self, folder, class_names=("cat", "dog"), wrong=(), per_class=2):
        self.run = start_run(Config(**make_flags(folder)))
        self.run.paths.folder.mkdir()
        self.splits = make_splits(folder, class_names, per_class)
        self.probabilities = predict(self.splits.test, wrong)
        self.metrics = make_metrics(self.splits, self.probabilities)
        self.findings = []
        self.onednn = None
        self.epochs = [("head", "1"), ("head", "2"), ("finetune", "1")]

    def relabel(self, split, labels):
        """Gives the examples of a split other labels."""
        self.splits.labels[self.splits.splits == split] = labels

    def render(self):
        weights = Weights("starter", sha256="abc123")
        packages = {"keras": "3.15.1", "keras_ft": None}
        record = RunRecord(
            "running", weights, {}, "float32", ("CPU:0",), packages, self.onednn
        )
        paths = self.run.paths
        run = dataclasses.replace(self.run, record=record)
        paths.flags.write_text("--data=<i>x</i>\n--seed=7\n")
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        values = ["0.5"] * len(names)
        rows = [(phase, epoch, *values) for phase, epoch in self.epochs]
        files.write_csv(paths.history, [("phase", "epoch", *names), *rows])
        task = self.splits.task
        run_page.write_report(
            run,
            make_dataset(self.splits, self.findings),
            self.metrics,
            {task.name: Calibrated(task, 1.25, "", {"test": self.probabilities})},
            make_model(self.splits.tasks),
        )
        return HtmlPage(paths.report.read_text(encoding="utf-8"))
