"""What the flags are, and what follows from them."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.config.settings import SECTIONS, Config
from keras_ft.errors import UserError

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


@pytest.mark.parametrize(
    ("name", "value", "same"),
    [
        ("batch_size", np.int64(8), 8),
        ("head_learning_rate", np.float32(0.5), 0.5),
        ("mirror", np.True_, True),
        ("patience", np.int32(3), 3),
        ("image_size", np.array([64, 96]), (64, 96)),
        ("classes", np.array(["a", "b"]), ("a", "b")),
        ("classes", [0, 1], ("0", "1")),
        ("classes", (name for name in "ab"), ("a", "b")),
    ],
)
def test_values_of_numpy_and_numbers_in_lists_are_taken(name, value, same):
    config = Config(**BASE | {"augment": "light", name: value})
    assert config == Config(**BASE | {"augment": "light", name: same})
    [stored] = [v for field, v in config.items() if field.name == name]
    assert type(stored) in (int, float, bool, tuple, ImageSize)


def test_weights_of_tasks_may_be_numbers():
    config = Config(**BASE, label_columns=["a", "b"], task_weights=[1, np.float32(2)])
    assert config.train.weigh("ab") == {"a": pytest.approx(1 / 3), "b": 2 / 3}


@pytest.mark.parametrize("value", [None, [None], {"a": 1}.items()])
def test_a_list_of_something_else_is_refused(value):
    with pytest.raises(UserError, match="--classes must be a list of texts or numbers"):
        Config(**BASE, classes=value)


def test_weights_are_never_none():
    """It means random weights in Keras, and `auto` for other flags."""
    with pytest.raises(UserError, match='must be "none" for random weights.*"auto"'):
        Config(**BASE, weights=None)
    assert Config(**BASE, weights="auto").replace(seed=1).model.weights is None
