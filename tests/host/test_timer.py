import pytest

from keras_ft.host import timer


def test_durations_of_a_part_add_up_in_the_order_of_their_beginning(monkeypatch):
    times = iter([10.0, 12.0, 20.0, 21.5])
    monkeypatch.setattr(timer.time, "perf_counter", lambda: next(times))
    measured = timer.Timer()
    with measured.measure("data"):
        pass
    measured.add("features", 0.25)
    with measured.measure("data"):
        pass
    assert list(measured.seconds.items()) == [("data", 3.5), ("features", 0.25)]
    assert measured.with_total() == {"data": 3.5, "features": 0.25, "total": 3.75}
    assert "total" not in measured.seconds


def test_a_part_that_fails_has_no_duration():
    measured = timer.Timer()
    with pytest.raises(KeyError), measured.measure("data"):
        raise KeyError
    assert measured.seconds == {}
