"""The program sets up logging and warnings; the library leaves them to its user."""

import json
import re
import subprocess
import sys
import warnings

from helpers import ROOT, png_header
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


LIBRARY = """
import json, logging, sys, warnings
from pathlib import Path
from unittest import mock

def refuse_ours(*args, **kwargs):  # other packages install filters of their own
    assert not sys._getframe(1).f_globals["__name__"].startswith("keras_ft")

with (
    mock.patch("warnings.filterwarnings", refuse_ours),
    mock.patch("warnings.simplefilter", refuse_ours),
):
    import keras_ft
    config = keras_ft.Config(
        **json.loads(sys.argv[1]), finetune_epochs=1, export_formats=(), report=False
    )
    keras_ft.check(config)
    metrics = keras_ft.fine_tune(config)
assert "DecompressionBomb" not in str(warnings.filters)
log = logging.getLogger("keras_ft")
assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)
# A notebook does not pay for what it does not look at.
assert metrics["exports"] == {}
workdir = Path(config.run.workdir)
assert not any((workdir / name).exists() for name in ("report.html", "export"))
assert "keras_ft.report.plots" not in sys.modules
"""


def test_using_the_library_sets_up_neither_logging_nor_warnings(tiny_flags):
    del tiny_flags["finetune_epochs"]
    command = [sys.executable, "-c", LIBRARY, json.dumps(tiny_flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Training shows its epochs anyway, without bars where there is no terminal.
    assert re.search(r"^finetune +1/1 ", done.stderr, re.MULTILINE)
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", done.stdout + done.stderr)
