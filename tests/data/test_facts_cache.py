import contextlib
import os
import sqlite3
from pathlib import Path

from PIL import Image

from keras_ft.data import facts_cache
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.data.file_facts import Problem, read_header

RGB = Image.new("RGB", (40, 30), "red")


def load_one(path, cache_dir):
    [facts] = load_header_facts([str(path)], cache_dir)
    return facts


def test_facts_are_cached_until_the_file_changes(tmp_path):
    path, cache = tmp_path / "x.png", tmp_path / "cache"
    RGB.save(path)
    computed = []

    def compute(file, facts):
        computed.append(file)
        read_header(file, facts)

    def load():
        [facts] = facts_cache.load_facts(
            [str(path)], cache, compute, lambda f: f["header_read"], ""
        )
        return facts

    first = load()
    assert load() == first
    assert computed == [str(path)]
    RGB.resize((10, 10)).save(path)
    assert load()["width"] == 10
    # The size and the modification time stay; the time of the change does not.
    times = os.stat(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    load()
    assert len(computed) == 3


def test_a_missing_file_is_not_cached(tmp_path):
    path = tmp_path / "x.png"
    facts = load_one(path, tmp_path)
    assert facts["problem"] == Problem.MISSING_FILE
    RGB.save(path)
    assert load_one(path, tmp_path)["problem"] == 0


def test_several_chunks_of_files_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_cache, "_CHUNK", 3)
    files = [str(tmp_path / f"{width}.png") for width in range(1, 9)]
    for width, file in enumerate(files, 1):
        RGB.resize((width, 2)).save(file)
    for _ in range(2):
        facts = load_header_facts(files, tmp_path / "cache")
        assert facts["width"].tolist() == list(range(1, 9))


def test_a_damaged_cache_is_replaced(tmp_path, caplog):
    RGB.save(tmp_path / "x.png")
    cache = tmp_path / "cache"
    load_one(tmp_path / "x.png", cache)
    [database] = cache.iterdir()
    database.write_bytes(b"no database" * 500)
    assert load_one(tmp_path / "x.png", cache)["width"] == 40
    assert "not cached" in caplog.text
    caplog.clear()
    assert load_one(tmp_path / "x.png", cache)["width"] == 40
    assert caplog.text == ""


def test_a_group_may_write_the_cache_and_other_rows_are_none(tmp_path):
    RGB.save(tmp_path / "x.png")
    before = os.umask(0o002)
    try:
        load_one(tmp_path / "x.png", tmp_path / "cache")
    finally:
        os.umask(before)
    [file] = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o664

    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE facts SET facts = 'other'")
    assert load_one(tmp_path / "x.png", tmp_path / "cache")["width"] == 40


def test_a_cache_dir_that_is_a_file_is_not_used(tmp_path, caplog):
    RGB.save(tmp_path / "x.png")
    (tmp_path / "cache").write_text("x")
    assert load_one(tmp_path / "x.png", tmp_path / "cache")["width"] == 40
    assert "not cached" in caplog.text


def test_file_names_need_not_be_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    with open(os.fsencode(path), "wb") as stream:
        RGB.save(stream, "png")
    for _ in range(2):
        assert load_one(path, tmp_path / "cache")["width"] == 40
