import os

import pytest

from keras_ft.host import memory


@pytest.mark.parametrize(("text", "expected"), [("4096\n", 4096), ("max\n", None)])
def test_the_limit_is_that_of_the_container(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "memory.max"
    path.write_text(text)
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (tmp_path / "missing", path))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.memory_limit() == (expected or machine)
