"""Sets of TensorFlow Datasets that were prepared before, or are downloaded now."""

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import SPLIT_ALIASES, Row
from keras_ft.data.unpack import unpack_rows
from keras_ft.errors import UserError


def list_tfds(config: DataConfig) -> list[Row]:
    """Lists the examples in the splits train, val(idation) and test of a TFDS set.

    Raises:
        UserError: The set is unknown, not prepared, or not one of labelled images.
    """
    builder = _make_builder(config)
    # In another folder, the same name and version may contain other images.
    identity = f"{builder.data_path}\n{builder.info.as_json}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    root = Path(config.cache_dir).expanduser() / "tfds"
    rows = []
    for split in filter(SPLIT_ALIASES.get, builder.info.splits):
        rows += unpack_rows(
            f"{config.data}/{split}",
            root / builder.info.full_name / digest / split,
            functools.partial(_load_split, builder, split),
            SPLIT_ALIASES[split],
        )
    return rows


def _make_builder(config: DataConfig) -> Any:
    import tensorflow_datasets as tfds

    name = config.data.removeprefix("tfds:")
    data_dir = os.path.expanduser(config.tfds_data_dir) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if config.tfds_download:
            builder.download_and_prepare()
    except (OSError, ValueError, tfds.download.DownloadError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--data=tfds:NAME must name a set of TFDS. Received: {name}: {reason}"
        ) from error
    if not builder.info.splits:
        raise UserError(
            f"tfds:{name} is not in {builder.data_path}. Pass --tfds_download to "
            "download it, or --tfds_data_dir=FOLDER if it is in another folder."
        )
    return builder


def _load_split(builder: Any, split: str) -> Iterator[tuple[bytes, str]]:
    """Loads encoded images and class names of a split, in the order of its files."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            "A TFDS set must have one image and one class label per example. Received: "
            f"tfds:{builder.info.full_name} with {', '.join(features)}"
        )
    [image], [label] = images, labels
    examples = builder.as_dataset(
        split=split,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
        shuffle_files=False,
    )
    to_name = features[label].int2str
    for example in examples.as_numpy_iterator():
        yield example[image], to_name(example[label])
