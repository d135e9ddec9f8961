import threading

import numpy as np
import pytest

from keras_ft.training import checkpoint
from keras_ft.training.checkpoint import (
    DAMAGED,
    Checkpoint,
    CheckpointWriter,
    load_arrays,
    load_checkpoint,
    write_arrays,
    write_checkpoint,
)


def write(folder, epoch, phase="head"):
    arrays = {"model": [np.full((2, 3), epoch + i, np.float32) for i in range(12)]}
    state = {"best": 0.1 + epoch, "stopped": False}
    write_checkpoint(folder, phase, Checkpoint(epoch, arrays, state))


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "model": [rng.normal(size=(3, i)).astype(np.float32) for i in range(12)],
        "optimizer": [np.array(7), np.array([1, 2], np.uint32)],
        "best": [],
    }
    state = {"best": 1 / 3, "stopped": True}
    write_checkpoint(tmp_path / "c", "head", Checkpoint(12, arrays, state))
    found = load_checkpoint(tmp_path / "c", "head")
    assert (found.epoch, found.state) == (12, state)
    for name in ("model", "optimizer"):
        for old, new in zip(arrays[name], found.arrays[name], strict=True):
            assert old.dtype == new.dtype
            np.testing.assert_array_equal(old, new)


def test_there_may_be_none(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere", "head") is None
    write(tmp_path, 1, "finetune")
    assert load_checkpoint(tmp_path, "head") is None


def test_the_newest_two_are_kept_of_each_phase(tmp_path):
    write(tmp_path, 4, "head")
    for epoch in (8, 9, 10, 100_000):
        write(tmp_path, epoch, "finetune")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert load_checkpoint(tmp_path, "finetune").epoch == 100_000
    assert load_checkpoint(tmp_path, "head").epoch == 4


@pytest.mark.parametrize("where", ["cut", "empty", "bit", "text"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, where, caplog):
    write(tmp_path, 1)
    write(tmp_path, 2)
    path = tmp_path / "head-00002.npz"
    content = bytearray(path.read_bytes())
    if where == "bit":
        content[content.index(np.float32(5).tobytes())] ^= 1
    damaged = {"cut": content[:-300], "empty": b"", "bit": content, "text": b"x" * 99}
    path.write_bytes(damaged[where])
    assert load_checkpoint(tmp_path, "head").epoch == 1
    assert "head-00002.npz is damaged" in caplog.text


def test_reading_runs_no_code(tmp_path):
    arrays = np.array([object()], dtype=object)
    np.savez(tmp_path / "head-00001.npz", state=arrays)
    with pytest.raises(DAMAGED):
        load_arrays(tmp_path / "head-00001.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.npz"
    write_arrays(path, {"a": np.ones(3)}, {"n": 1})
    with pytest.raises(TypeError):
        write_arrays(path, {"a": np.zeros(3)}, {"n": object()})
    arrays, state = load_arrays(path)
    np.testing.assert_array_equal(arrays["a"], np.ones(3))
    assert state == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_the_writer_works_beside_its_caller_and_ends_with_its_block(
    tmp_path, monkeypatch
):
    may_write = threading.Event()

    def wait_and_write(*args):
        may_write.wait(10)
        write_checkpoint(*args)

    monkeypatch.setattr(checkpoint, "write_checkpoint", wait_and_write)
    with CheckpointWriter(tmp_path, "head") as writer:
        assert not writer.is_busy
        writer.write(Checkpoint(1, {}, {}))
        assert writer.is_busy
        assert load_checkpoint(tmp_path, "head") is None
        may_write.set()
    assert load_checkpoint(tmp_path, "head").epoch == 1


def test_the_writer_raises_what_went_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="file"),
        CheckpointWriter(tmp_path / "file", "head") as writer,
    ):
        writer.write(Checkpoint(1, {}, {}))
