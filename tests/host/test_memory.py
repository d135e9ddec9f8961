import os

import pytest

from keras_ft.host import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/a/b", {"memory.max": "8192"}, 8192),
        ("0::/a/b", {"a/memory.max": "4096", "a/b/memory.max": "8192"}, 4096),
        ("0::/a/b", {"a/memory.max": "max", "a/b/memory.max": "8192\n"}, 8192),
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("5:memory:/job", {"memory/job/memory.limit_in_bytes": "4096"}, 4096),
        ("5:cpu:/job", {"memory.max": "4096"}, MACHINE),
    ],
)
def test_the_limit_is_that_of_the_groups(tmp_path, monkeypatch, line, limits, expected):
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in {"proc/self/cgroup": f"{line}\n", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.memory_limit() == expected


def test_without_groups_the_limit_is_that_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    assert memory.memory_limit() == MACHINE
