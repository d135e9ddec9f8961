"""Makes keras_ft/starter/resnet50.npz from a float checkpoint of ResNet50.

    python tools/make_starter.py FLOAT_FILE [--check FOLDER ...]

Convolution kernels become int8 with one scale per output channel; all other variables
are stored as float16, which is exact for a checkpoint that holds float16.
The same input gives the same bytes.

--check compares the two networks on scikit-image's 200 faces and non-faces and on the
photographs of each folder: are their features alike, and do they serve a task equally
well? A folder with train/CLASS and test/CLASS inside is also classified.
"""

import argparse
import hashlib
import pathlib
import sys

import keras
import numpy as np
import skimage.data
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script's path holds its own folder, not this one

from keras_ft.models import weights  # noqa: E402

OUTPUT = ROOT / "keras_ft" / "starter" / "resnet50.npz"
EXTENSIONS = {".jpg", ".jpeg", ".png"}
LEAST_PHOTOGRAPHS = 200
LEAST_COSINE = 0.999  # of the features of the two networks, mean over photographs


def quantise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a kernel to 8 bits.

    Clipping the largest weights for least squared error gains less than 0.01 % here,
    so the scale is simply that of the largest weight of the channel.

    Args:
        kernel: float32 [..., C].

    Returns:
        int8 [..., C] in [-127, 127] and its unit, float32 [C].
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(127)
    return np.rint(kernel / scale).astype(np.int8), scale


def make_starter(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the arrays of the starter checkpoint, by variable path."""
    arrays = {}
    for variable in network.weights:
        value = keras.ops.convert_to_numpy(variable)
        if value.ndim > 1:
            value, scale = quantise(value)
            arrays[variable.path + weights.SCALE_SUFFIX] = scale
        elif np.array_equal(value, value.astype(np.float16)):
            value = value.astype(np.float16)
        arrays[variable.path] = value
    return arrays


def read_images(files: list[pathlib.Path], size: int) -> np.ndarray:
    """Reads photographs as uint8 [N, size, size, 3]."""
    images = np.empty((len(files), size, size, 3), np.uint8)
    for index, file in enumerate(files):
        with Image.open(file) as image:
            resized = image.convert("RGB").resize((size, size), Image.BILINEAR)
        images[index] = resized
    return images


def read_faces(size: int) -> np.ndarray:
    """Reads 100 faces and then 100 non-faces as uint8 [200, size, size, 3]."""
    grey = np.rint(skimage.data.lfw_subset() * 255).astype(np.uint8)
    images = [Image.fromarray(image).convert("RGB") for image in grey]
    return np.stack([image.resize((size, size), Image.BILINEAR) for image in images])


def compute_features(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the pooled features, float32 [N, D], of images uint8 [N, S, S, 3]."""
    batches = []
    for start in range(0, len(images), 64):
        batch = images[start : start + 64].astype(np.float32)
        batch = keras.applications.resnet.preprocess_input(batch)
        batches.append(network.predict_on_batch(batch).mean(axis=(1, 2)))
    return np.concatenate(batches)


def compare(title: str, features: dict[str, np.ndarray]) -> bool:
    """Prints the cosine between the networks' features; whether it is high enough."""
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in features.values()]
    cosine = np.sum(unit[0] * unit[1], axis=1)
    print(f"{title}: {len(cosine)} photographs")
    print(f"  cosine of features: mean {cosine.mean():.6f}, min {cosine.min():.6f}")
    return bool(cosine.mean() >= LEAST_COSINE)


def classify(train: np.ndarray, train_labels, test: np.ndarray, test_labels) -> float:
    """Returns the test accuracy of a logistic regression on features [N, D]."""
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return regression.fit(train, train_labels).score(test, test_labels)


def check_faces(networks: dict[str, keras.Model], size: int) -> bool:
    """Compares the networks on faces and non-faces."""
    images, labels = read_faces(size), np.repeat([0, 1], 100)
    features = {name: compute_features(net, images) for name, net in networks.items()}
    alike = compare("skimage.data.lfw_subset", features)
    splits = StratifiedShuffleSplit(n_splits=5, test_size=0.3, random_state=0)
    for name, x in features.items():
        scores = [
            classify(x[train], labels[train], x[test], labels[test])
            for train, test in splits.split(images, labels)
        ]
        each = " ".join(f"{score:.3f}" for score in scores)
        print(f"  accuracy of {name}: mean {np.mean(scores):.4f} (splits {each})")
    return alike


def check_folder(
    networks: dict[str, keras.Model], folder: pathlib.Path, size: int
) -> bool:
    """Compares the networks on the photographs of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if len(files) < LEAST_PHOTOGRAPHS:
        sys.exit(f"{folder} has {len(files)} photographs, {LEAST_PHOTOGRAPHS} needed")
    images = read_images(files, size)
    features = {name: compute_features(net, images) for name, net in networks.items()}
    alike = compare(folder.name, features)
    parts = np.array([file.relative_to(folder).parts[0] for file in files])
    labels = np.array([file.parent.name for file in files])
    train, test = parts == "train", parts == "test"
    if train.any() and test.any():
        for name, x in features.items():
            score = classify(x[train], labels[train], x[test], labels[test])
            print(f"  accuracy of {name}: {score:.4f} of {test.sum()} test photographs")
    return alike


def main() -> None:
    """Makes the file and, if asked to, checks it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("float_file", metavar="FLOAT_FILE", type=pathlib.Path)
    parser.add_argument("--check", metavar="FOLDER", type=pathlib.Path, nargs="*")
    parser.add_argument("--image_size", type=int, default=96)
    args = parser.parse_args()
    shape = (args.image_size, args.image_size, 3)
    network = keras.applications.ResNet50(
        include_top=False, weights=str(args.float_file), input_shape=shape
    )
    OUTPUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUTPUT, **make_starter(network))
    sha256 = hashlib.sha256(OUTPUT.read_bytes()).hexdigest()
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1e6:.2f} MB, SHA-256 {sha256}")
    if args.check is None:
        return
    starter = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=shape
    )
    weights.assign_variables(starter, weights.read_starter(OUTPUT))
    networks = {"float": network, "starter": starter}
    alike = [check_faces(networks, args.image_size)]
    alike += [check_folder(networks, f, args.image_size) for f in args.check]
    if not all(alike):
        sys.exit(f"the features differ: mean cosine below {LEAST_COSINE}")


if __name__ == "__main__":
    main()
