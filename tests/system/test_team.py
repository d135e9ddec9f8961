"""A team of one: it shares with nobody and waits for nobody."""

import numpy as np
import pytest

from keras_ft.system.team import Team


def test_alone_every_method_returns_what_this_process_has(tmp_path):
    team = Team()
    assert team.is_alone and team.is_chief
    assert team.connect("auto") is team
    assert team.share(7, unit=4) == range(7)
    rows = np.array([b"a", b"b"])
    assert team.gather(rows) is rows
    assert team.gather_bytes(rows) is rows
    assert team.on_chief(lambda: tmp_path) is tmp_path
    assert team.with_folder(tmp_path / "missing", "--cache_dir") is team
    team.check_same({"values": object()})
    team.check_shared(tmp_path / "missing", "--workdir")
    team.check_enough(1)
    team.wait_for(tmp_path / "missing")
    with team.ending_together(), team.chief_first():
        team.disband()
    assert list(tmp_path.iterdir()) == []


def test_alone_an_error_is_raised_as_it_is():
    team = Team()
    own = OSError("full")
    with pytest.raises(OSError) as raised, team.failing_together():
        raise own
    assert raised.value is own

    def fail():
        raise own

    with pytest.raises(OSError) as raised:
        team.on_chief(fail)
    assert raised.value is own
