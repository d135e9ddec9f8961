"""What tests of converted images share."""

import numpy as np
from PIL import Image

from keras_ft.config.schema import DataConfig
from keras_ft.images.decode import decode_image

rng = np.random.default_rng(0)
RGB = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))


def make_config(data, **fields):
    cache = data.parent / "cache"
    return DataConfig(data=str(data), cache_dir=str(cache), **fields)


def decode(content):
    return decode_image(content).numpy()


def decode_file(path):
    with open(path, "rb") as stream:
        return decode(stream.read())


def problems(dataset):
    return dataset.facts["problem"].tolist()
