"""What the flags are, and what follows from them."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter

import pytest

from keras_ft.config.settings import SECTIONS, Config

BASE = {"workdir": "w", "data": "d"}
CACHE_DIR = SECTIONS["data"].cache_dir


def test_every_flag_has_a_name_of_its_own_and_help():
    fields = [field for field, _ in Config(**BASE).items()]
    assert Counter(field.name for field in fields).most_common(1)[0][1] == 1
    assert sum(len(dataclasses.fields(s)) for s in SECTIONS.values()) == len(fields)
    assert all(field.metadata["help"] for field in fields)


def test_defaults_keep_the_rules():
    changed = {
        field.name: value
        for field, value in Config(**BASE).items()
        if value != field.default
    }
    assert changed == BASE | {"cache_dir": os.path.expanduser(CACHE_DIR)}


def test_flags_of_speed_that_change_the_result_say_so():
    # A finished run is refused with another value of these (see workdir.py).
    affecting = {
        field.name
        for field in dataclasses.fields(SECTIONS["speed"])
        if field.metadata["affects_result"]
    }
    assert affecting == {"feature_views", "fold_batch_norm", "precision", "jit"}


@pytest.mark.parametrize(
    ("xdg", "expected"), [("/x", "/x/keras_ft"), ("", "~/.cache/keras_ft")]
)
def test_cache_dir_defaults_to_the_users_cache(xdg, expected):
    code = (
        "from keras_ft.config.schema import DataConfig; print(DataConfig().cache_dir)"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code],
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": xdg},
    )
    assert output.strip() == expected
