"""A split that the tests share."""

import numpy as np
import pytest
from helpers import COLOURS, make_examples


@pytest.fixture
def split(image_folder):
    files = [
        str(f) for name in COLOURS for f in sorted((image_folder / name).iterdir())
    ]
    labels = np.repeat(np.arange(3), 10)
    return make_examples(files, files, labels, list(COLOURS))
