import pytest

from keras_ft.host import progress


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (1000, "503 of 1000 images, 0.1 per second, 1:22:50 left."),
        (None, "503 images, 0.1 per second."),
    ],
)
def test_a_log_line_has_the_rate_and_the_time_left(monkeypatch, caplog, total, line):
    monkeypatch.setattr(progress, "SECONDS", 30.0)
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    tracked = progress.track("abcd", total, num_done=500, unit="image")
    assert list(tracked) == ["a", "b", "c", "d"]
    assert caplog.messages == [line]


def test_a_terminal_shows_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    assert list(progress.track("ab", 10, num_done=5, unit="image")) == ["a", "b"]
    assert "7/10" in capsys.readouterr().err
