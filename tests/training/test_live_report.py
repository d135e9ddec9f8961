import pytest
from helpers import make_flags, start_run

from keras_ft.config.recipe import Phase
from keras_ft.config.settings import Config
from keras_ft.training import live_report
from keras_ft.training.callbacks import HISTORY_FIELDS, make_writers
from keras_ft.training.live_report import LiveReport

PHASE = Phase("head", 5, 0.1, ())


@pytest.fixture
def live(tmp_path):
    """The callback of a phase, and the rows that it shows."""
    run = start_run(Config(**make_flags(tmp_path)))
    run.paths.folder.mkdir()
    rows = []
    callback = LiveReport(run, "head", rows)
    callback.set_params({"epochs": 5})
    callback.report = run.paths.report

    def end_epoch():
        rows.append(dict.fromkeys(HISTORY_FIELDS, 0.5) | {"phase": "head", "epoch": 1})
        callback.on_epoch_end(len(rows) - 1)

    callback.end_epoch = end_epoch
    return callback


def test_the_page_is_written_before_and_after_epochs(live, monkeypatch):
    monkeypatch.setattr(live_report, "_PAUSE", 0)
    monkeypatch.setattr(live_report, "_TIMES", 0)
    live.on_train_begin()
    assert "0 of at most 5 epochs" in live.report.read_text()
    for epoch in range(1, 3):
        live.end_epoch()
        assert f"{epoch} of at most 5 epochs" in live.report.read_text()


def test_short_epochs_are_shown_at_the_end(live):
    live.on_train_begin()
    for _ in range(3):
        live.end_epoch()
    assert "0 of at most" in live.report.read_text()
    live.on_train_end()
    assert "3 of at most" in live.report.read_text()


def test_a_page_that_cannot_be_written_is_one_warning(live, caplog):
    live.report.mkdir()
    live.on_train_begin()
    live.end_epoch()
    live.on_train_end()
    [record] = caplog.records
    assert "report.html can't be written while training" in record.message


@pytest.mark.parametrize("report", [True, False])
def test_a_run_without_report_has_no_page(tmp_path, report):
    run = start_run(Config(**make_flags(tmp_path), report=report))
    writers = make_writers(run, PHASE, 0)
    assert any(isinstance(writer, LiveReport) for writer in writers) == report
