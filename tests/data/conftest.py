"""A fixture of converted images."""

import pytest
from conversion_helpers import make_config

from keras_ft.data.dataset import load_dataset


@pytest.fixture
def load(tmp_path):
    """Loads a table of image files of one class; they are converted below `cache`."""

    def call(*paths):
        rows = ["path,label", *(f"{path},a" for path in paths)]
        (tmp_path / "table.csv").write_text("\n".join(rows))
        return load_dataset(make_config(tmp_path / "table.csv"))

    return call
