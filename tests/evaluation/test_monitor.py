import math

import pytest

from keras_ft.evaluation.monitor import MONITORS

METRICS = {
    "val": {
        "loss": 0.25,
        "accuracy": 0.9,
        "macro_f1": 0.8,
        "balanced_accuracy": 0.7,
    },
    "test": {"loss": 9.0, "accuracy": 0.0, "macro_f1": 0.0, "balanced_accuracy": 0.0},
}


@pytest.mark.parametrize(
    ("name", "better", "worse", "value", "text"),
    [
        ("val_loss", 0.1, 0.2, 0.25, "0.2500"),
        ("val_accuracy", 0.2, 0.1, 0.9, "0.900"),
        ("val_macro_f1", 0.2, 0.1, 0.8, "0.800"),
        ("val_balanced_accuracy", 0.2, 0.1, 0.7, "0.700"),
    ],
)
def test_monitors_compare_read_and_format_their_metric(
    name, better, worse, value, text
):
    monitor = MONITORS[name]
    assert monitor.name == name
    assert monitor.is_better(better, worse)
    assert not monitor.is_better(worse, better)
    assert not monitor.is_better(better, better)
    assert monitor.of(METRICS) == value
    assert monitor.format(value) == text


@pytest.mark.parametrize("monitor", MONITORS.values(), ids=lambda one: one.name)
def test_nan_is_never_better(monitor):
    assert not monitor.is_better(math.nan, 0.5)
