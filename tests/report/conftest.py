"""Fixtures of runs whose report tests render."""

import functools
from unittest.mock import Mock

import pytest
from run_page_helpers import Run

from keras_ft.report import gallery, run_page, task_page


@pytest.fixture
def no_plots(monkeypatch):
    """Saves the time of figures that a test does not look at."""
    plots = Mock(**{"inline.return_value": "data:image/svg+xml,"})
    for module in (run_page, task_page):
        monkeypatch.setattr(module, "plots", plots)


@pytest.fixture
def make_run(no_plots, monkeypatch, tmp_path):
    """Makes a run whose report has neither figures nor test images, to save time."""
    monkeypatch.setattr(gallery, "make_cards", lambda *args: [])
    return functools.partial(Run, tmp_path)


@pytest.fixture
def run(make_run):
    return make_run()
