import sys

import numpy as np
import pytest
from conversion_helpers import RGB, decode_file, make_config, problems
from helpers import COLOURS, write_images
from PIL import Image

from keras_ft.data.dataset import load_dataset, make_splits
from keras_ft.data.file_facts import FORMATS, Problem
from keras_ft.errors import UserError

# Of a HEIC file, enough to recognise it.
HEIC_HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_is_read_and_upright(tmp_path, load):
    reason = "needs pip install 'keras_ft[heic]'"
    pillow_heif = pytest.importorskip("pillow_heif", reason=reason)
    exif = Image.Exif()
    exif[274] = 6
    smooth = RGB.resize((3, 2)).resize((64, 48))
    image = pillow_heif.from_pillow(smooth)
    image.info["exif"] = exif.tobytes()
    image.save(tmp_path / "x.heic", quality=95)
    dataset = load("x.heic")
    assert FORMATS[dataset.facts["format"][0]] == "heic"
    pixels = decode_file(dataset.examples.files[0])
    expected = np.rot90(np.asarray(smooth), -1)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3


@pytest.fixture
def heic_folder(tmp_path):
    """Two classes of ten images; three of the first one are HEIC."""
    for name in ("blue", "red"):
        write_images(tmp_path / "data" / name, COLOURS[name], 10)
    for i in range(3):
        (tmp_path / "data" / "blue" / f"{i}.png").write_bytes(HEIC_HEADER)
    return tmp_path / "data"


def test_without_its_package_heic_is_a_bad_image(heic_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    config = make_config(heic_folder)
    dataset = load_dataset(config)
    assert problems(dataset).count(Problem.MISSING_PACKAGE) == 3
    assert np.sum(make_splits(dataset, config, seed=0).splits == "skipped") == 3
    config = make_config(heic_folder, on_bad_image="error")
    with pytest.raises(UserError, match=r"3 of 20 .*pip install 'keras_ft\[heic\]'"):
        make_splits(dataset, config, seed=0)


def test_a_package_that_fails_to_import_is_missing(tmp_path, load, monkeypatch):
    broken = "import time\ntime.sleep(0.05)\nraise ImportError\n"
    (tmp_path / "pillow_heif.py").write_text(broken)
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"{i}.heic" for i in range(8)]
    for name in names:  # in several threads
        (tmp_path / name).write_bytes(HEIC_HEADER)
    assert problems(load(*names)) == [Problem.MISSING_PACKAGE] * 8


def test_the_error_about_a_class_names_the_missing_package(heic_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for file in heic_folder.glob("blue/*"):
        file.write_bytes(HEIC_HEADER)
    config = make_config(heic_folder)
    with pytest.raises(UserError, match=r"none of 'blue'; .*keras_ft\[heic\]"):
        make_splits(load_dataset(config), config, seed=0)
    for file in heic_folder.glob("red/*"):
        file.write_bytes(HEIC_HEADER)
    with pytest.raises(UserError, match=r"none of 'blue', 'red'; .*keras_ft\[heic\]"):
        make_splits(load_dataset(config), config, seed=0)


def test_a_package_that_is_installed_later_is_used(heic_folder, monkeypatch):
    pytest.importorskip("pillow_heif", reason="needs pip install 'keras_ft[heic]'")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        load_dataset(make_config(heic_folder))
    # What is missing now is the rest of the files.
    dataset = load_dataset(make_config(heic_folder))
    assert problems(dataset).count(Problem.UNREADABLE) == 3
