"""Makes a data set of grey patches of photographs: which photograph is it from?

The photographs come with scikit-image and scikit-learn. Each is cut into squares that
do not overlap, a fifth of which is for val and a fifth for test. Without colour, what
remains are textures and shapes, unlike in the clothes and digits.

    python benchmarks/make_patches.py FOLDER
"""

import argparse
import pathlib

import numpy as np
import skimage.color
import skimage.data
import skimage.util
import sklearn.datasets
from PIL import Image

SIDE = 48
MOST = 80  # patches of one photograph
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket"),
)


def load_photographs() -> dict[str, np.ndarray]:
    """Loads grey photographs, uint8 [H, W], by name."""
    photographs = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS}
    for name in ("china.jpg", "flower.jpg"):
        image = sklearn.datasets.load_sample_image(name)
        photographs[name.removesuffix(".jpg")] = image
    return {
        name: skimage.util.img_as_ubyte(
            skimage.color.rgb2gray(image) if image.ndim == 3 else image
        )
        for name, image in photographs.items()
    }


def cut(photograph: np.ndarray) -> np.ndarray:
    """Cuts a photograph into patches, uint8 [N, SIDE, SIDE]."""
    height, width = (side // SIDE * SIDE for side in photograph.shape)
    blocks = skimage.util.view_as_blocks(photograph[:height, :width], (SIDE, SIDE))
    return blocks.reshape(-1, SIDE, SIDE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(0)
    for name, photograph in load_photographs().items():
        patches = cut(photograph)
        picked = rng.permutation(len(patches))[:MOST]
        fifth = len(picked) // 5
        splits = {"val": picked[:fifth], "test": picked[fifth : 2 * fifth]}
        splits["train"] = picked[2 * fifth :]
        for split, indices in splits.items():
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            for i in indices:
                Image.fromarray(patches[i]).save(target / f"{i}.png")


if __name__ == "__main__":
    main()
