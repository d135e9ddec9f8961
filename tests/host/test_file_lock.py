"""Tests of locks on file systems that have none."""

import errno
import fcntl

import pytest

from keras_ft.host.file_lock import lock_file
from keras_ft.runs.lock import locked


def _fail(number, monkeypatch):
    def flock(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_workdir_without_locks_is_used_with_a_warning(
    number, tmp_path, monkeypatch, caplog
):
    _fail(number, monkeypatch)
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert "has no locks (no locks): let no other process use the same" in caplog.text


def test_without_locks_the_caller_decides(tmp_path, monkeypatch, caplog):
    _fail(errno.ENOLCK, monkeypatch)
    with open(tmp_path / "file", "w") as stream:
        assert not lock_file(stream, seconds=60, without_locks=False)
    assert caplog.text == ""


def test_another_failure_is_raised(tmp_path, monkeypatch):
    _fail(errno.EIO, monkeypatch)
    with open(tmp_path / "file", "w") as stream, pytest.raises(OSError):
        lock_file(stream)
