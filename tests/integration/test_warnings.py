"""The program hides a warning of Pillow; the library leaves warnings to its user."""

import subprocess
import sys
import warnings

from helpers import png_header
from PIL import Image

from keras_ft import cli


def test_check_prints_no_warning_about_large_images(image_folder, tmp_path, capsys):
    (image_folder / "red" / "large.png").write_bytes(png_header(10_000, 9_000))
    flags = [f"--data={image_folder}", f"--cache_dir={tmp_path / 'cache'}"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cli.main(["", "--mode=check", *flags]) == 0
    assert "too_large" in capsys.readouterr().out
    assert Image.DecompressionBombWarning not in {w.category for w in caught}


def test_importing_the_library_installs_no_filter_for_it():
    script = (
        "import warnings, keras_ft.data.dataset\n"
        "assert 'DecompressionBomb' not in str(warnings.filters)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
