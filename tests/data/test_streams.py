import os
import sys

import pytest
from helpers import COLOURS, write_images

from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data.folders import list_folder, walk_images
from keras_ft.data.streams import open_images
from keras_ft.errors import UserError


def paths_of(data):
    images, total = open_images(DataConfig(data=str(data)))
    pairs = list(images)
    assert total in (None, len(pairs))
    assert all(path == file for path, file in pairs)
    return [path for path, _ in pairs], total


def test_a_folder_is_walked_in_the_order_of_paths(tmp_path):
    for name in ("b/a.png", "b.png", "b-/a.png", "b0.png", "b/c/a.jpg", "a/z.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "b" / "linked.png").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "gone.png").symlink_to("nowhere")
    for name in ("b/.hidden.png", "b/notes.txt"):
        (tmp_path / name).touch()
    paths, total = paths_of(tmp_path)
    assert total == 8
    assert paths == sorted(paths)


def test_the_images_of_a_folder_are_those_of_training(tmp_path, caplog):
    """By content, whatever their names; what is left out is counted."""
    write_images(tmp_path / "elsewhere", COLOURS["red"], 3)
    write_images(tmp_path / "data" / "blue", COLOURS["blue"], 1)
    (tmp_path / "data" / "red").symlink_to(tmp_path / "elsewhere")
    content = (tmp_path / "elsewhere" / "0.png").read_bytes()
    for name in ("a", "a.pjpeg", "a.jpg?w=300", "a.JPG "):
        (tmp_path / "data" / "blue" / name).write_bytes(content)
    for name in ("a.eps", "b.eps", "notes.txt", "README"):
        (tmp_path / "data" / "blue" / name).write_text("%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "data" / "blue" / "cycle").symlink_to("..")
    os.mkfifo(tmp_path / "data" / "blue" / "pipe")
    paths, total = paths_of(tmp_path / "data")
    assert total == 8
    assert paths == [row.file for row in list_folder(str(tmp_path / "data"))[0]]
    assert caplog.messages[-1].startswith(
        "Not all is read: 5 files have other extensions (2 none, 2 .eps, 1 .txt), "
        "1 folder not read. Images are JPEG,"
    )


def test_a_folder_without_images_is_an_error_that_says_what_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.eps").write_text("%!PS")
    with pytest.raises(UserError, match=f"none in {tmp_path}; 1 file has .* .\\.eps.$"):
        paths_of(tmp_path)


def test_a_folder_that_cannot_be_read_is_reported(image_folder, monkeypatch):
    scandir = os.scandir

    def fail(folder):
        if folder.rstrip("/").endswith("green"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", fail)
    findings = []
    assert len(list(walk_images(str(image_folder), findings.append))) == 20
    [finding] = findings
    assert finding.path == f"{image_folder}/green/"
    assert finding.detail == "can't be read: Permission denied"


def test_a_table_needs_no_labels(image_folder):
    table = image_folder / "new.csv"
    table.write_text("path\nred/0.png\ngone.png\n")
    images, total = open_images(DataConfig(data=str(table)))
    assert total == 2
    assert list(images) == [
        ("red/0.png", str(image_folder / "red" / "0.png")),
        ("gone.png", str(image_folder / "gone.png")),
    ]


def test_a_list_has_one_path_per_line(tmp_path):
    file = tmp_path / "list"
    file.write_bytes(b'b.png\r\n\n a,"b".png \ncaf\xe9.png\nlast.png')
    names = ["b.png", ' a,"b".png ', os.fsdecode(b"caf\xe9.png"), "last.png"]
    assert paths_of(f"@{file}") == (names, 4)


def test_a_list_may_begin_with_a_byte_order_mark_or_have_no_line_feeds(tmp_path):
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png")
    assert paths_of(f"@{tmp_path / 'list'}") == (["a.png", "b.png"], 2)
    (tmp_path / "list").write_bytes(b"a.png\0b.png\0")
    assert paths_of(f"@{tmp_path / 'list'}") == (["a.png", "b.png"], 2)
    (tmp_path / "list").write_bytes("\u00e9.png\r\nb.png\r\n".encode("utf-16"))
    assert paths_of(f"@{tmp_path / 'list'}") == (["\u00e9.png", "b.png"], 2)
    (tmp_path / "list").write_bytes(b"\xff\xfea")
    with pytest.raises(UserError, match="can't be read: .*utf-16"):
        open_images(DataConfig(data=f"@{tmp_path / 'list'}"))


def test_a_list_may_be_a_pipe_or_standard_input(tmp_path, monkeypatch):
    for name in ("pipe", "-"):
        reading, writing = os.pipe()
        os.write(writing, b"a.png\nb.png\n")
        os.close(writing)
        with os.fdopen(reading) as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            data = "@-" if name == "-" else f"@/dev/fd/{reading}"
            assert paths_of(data) == (["a.png", "b.png"], None)


def test_a_list_that_is_empty_or_missing_is_an_error(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    for name, error in [("empty", "without any"), ("missing", "can't be read")]:
        with pytest.raises(UserError, match=f"--data=@FILE.*{error}"):
            open_images(DataConfig(data=f"@{tmp_path / name}"))


def test_a_list_is_for_predict_only():
    assert Config(mode="predict", data="@-", model="m").data.data == "@-"
    for mode in ("train", "check", "evaluate", "compare"):
        with pytest.raises(UserError, match=f"mode=predict. Received: --mode={mode}"):
            Config(mode=mode, data="@-", workdir="w")
