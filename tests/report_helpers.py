"""What tests of the report share: results of a run, and a parser of its page."""

import dataclasses
import html.parser

import numpy as np


def predict(examples, wrong=()):
    """Makes probabilities whose predictions are correct except for some examples."""
    num_classes = len(examples.class_names)
    predictions = examples.labels.copy()
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % num_classes
    return np.float32(0.8 * np.eye(num_classes)[predictions] + 0.2 / num_classes)


def measure(examples, probabilities):
    """Computes metrics, with intervals that do not depend on the examples."""
    from keras_ft.evaluation.multiclass_metrics import compute_metrics

    intervals = {"accuracy_interval": [0.8, 1.0], "macro_f1_interval": [0.7, 1.0]}
    names = examples.class_names
    return compute_metrics(examples.labels, probabilities, names) | intervals


def make_metrics(splits, test_probabilities):
    """Makes the metrics.json of a run of both phases, whose export was left out."""
    names = list(splits.class_names)
    measured = {
        "val": measure(splits.val, predict(splits.val)),
        "test": measure(splits.test, test_probabilities),
    }
    phase = {"seconds": 2.0, "epochs": 2, "best_epoch": 2, "images_per_second": 5.0}
    before = {"loss": 1.2345, "ece": 0.3456}
    counts = {"train": 9, "val": 9, "test": len(splits.test), "skipped": 0}
    metrics = {
        "class_names": names,
        "num_examples": counts,
        "audit": {},
        "warnings": [],
        "weights_used": "starter",
        "weights_origin": "starter",
        "weights_terms": "Terms of <starter>.",
        "weights_attempts": [{"weights": "imagenet", "error": "no <network>"}],
        "best_phase": "finetune",
        "best_epoch": 1,
        "monitor": "val_loss",
        **measured,
        "phases": {"head": phase | measured, "finetune": phase | measured},
        "calibration": {
            "temperature": 1.25,
            "fitted_on": "val",
            "reason": "",
            "before": {"val": before, "test": before},
        },
        "exports": {},
        "seconds": {"data": 1.0, "finetune": 3.0, "total": 4.0},
    }
    if len(names) == 2:
        found = {"accuracy": 0.6875, "balanced_accuracy": 0.75, "macro_f1": 0.5}
        found |= {"precision": 0.625, "recall": 0.875}
        metrics["threshold"] = {
            "class_name": names[1],
            "value": 0.43,
            "reason": "",
            "in_use": False,
            "test": found,
            "test_without": found | {"accuracy": 0.7, "balanced_accuracy": 0.65},
        }
    return metrics


def label(task, labels):
    """Examples of a task of any kind; files 0.png, 1.png, ... that do not exist."""
    from helpers import make_examples

    examples = make_examples([f"{i}.png" for i in range(len(labels))])
    return dataclasses.replace(examples, tasks=(task,), targets=(np.array(labels),))


def make_measured(examples, probabilities):
    """Makes what `evaluate` knows about the only task of examples."""
    from keras_ft.report.mistakes import Measured

    task = examples.task
    metrics = task.kind.measure(task, examples.labels, probabilities)
    metrics |= {"accuracy_interval": [0.4, 0.9], "accuracy_standard_error": 0.125}
    return Measured(examples, probabilities, metrics)


class HtmlPage(html.parser.HTMLParser):
    """The elements, attributes and text of a page, whose elements must be closed."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.size = len(source.encode())
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):  # they have no end tag
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        # Line breaks and spaces between words count as one space.
        self.text += " ".join(data.split()) + " "

    def images(self, kind):
        """The addresses of the images of a kind, `svg` or `jpeg`."""
        sources = [a["src"] for tag, a in self.elements if tag == "img"]
        return [src for src in sources if src.startswith(f"data:image/{kind}")]

    def has(self, text):
        """Whether the page shows a text."""
        return text in " ".join(self.text.split())
