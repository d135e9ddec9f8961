"""What a phase reads: images, or cached features of the frozen part."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras

from keras_ft.catalog.backbones import find_backbone
from keras_ft.config.config import Config
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.images.pipeline import FeatureReader, ImageReader, Reader
from keras_ft.models.classifier import Parts, get_backbone, set_trainable, split
from keras_ft.system import devices
from keras_ft.tasks import Task
from keras_ft.training.features import Request, load_features

log = logging.getLogger("keras_ft")


def freeze_and_split(
    config: Config,
    tasks: Sequence[Task],
    stages: Sequence[str],
    classifier: keras.Model,
) -> Parts:
    """Freezes all but the stages to train, and splits a classifier before them.

    Args:
        config: `batch_norm` and `fold_batch_norm`.
        tasks: The tasks of the classifier.
        stages: Names of the stages to train.
        classifier: Float32 model of `make_classifier`.
    """
    batch_norm = config.model.resolved_batch_norm
    set_trainable(get_backbone(classifier), stages, batch_norm)
    fold = config.speed.fold_batch_norm != "off"
    return split(classifier, tasks, stages, fold)


def split_in_float32(
    config: Config,
    tasks: Sequence[Task],
    stages: Sequence[str],
    classifier: keras.Model,
    parts: Parts,
) -> Parts:
    """Splits a classifier in float32, for results that do not depend on precision.

    Args:
        config: As for `freeze_and_split`, like the other arguments.
        tasks: See there.
        stages: See there.
        classifier: See there.
        parts: The result of `freeze_and_split`, which is returned if it is float32.
    """
    if keras.config.dtype_policy().name == "float32":
        return parts
    with devices.precision("float32"):
        return freeze_and_split(config, tasks, stages, classifier)


def make_readers(
    config: Config,
    stages: Sequence[str],
    examples: Examples,
    parts: Parts,
    exact: Parts,
) -> Iterator[Reader]:
    """Makes the readers of train, val and test: of cached features if possible.

    The features of test are not computed before the caller asks for its reader, which
    it does after training: so training begins earlier.

    Args:
        config: The config of the run.
        stages: Names of the stages to train.
        examples: The examples.
        parts: The result of `freeze_and_split`, to train on.
        exact: That of `split_in_float32`, to predict val and test with.

    Yields:
        Three readers. Those of train and val read the same, features or images.

    Raises:
        UserError: If features can't be cached and `--cache_features=on`.
    """
    images = make_image_readers(config, examples)
    names = find_backbone(parts.backbone.name).stage_names
    if parts.frozen is None and stages[0] != names[0]:
        log.info(
            "Features are not cached: %s begins inside a layer of the network.",
            stages[0],
        )
    left: list[Reader] = list(images.values())
    if parts.frozen is not None and config.speed.cache_features != "off":
        requests = _make_requests(config, stages, images, parts, exact)
        arrays = load_features(
            requests,
            Path(config.data.cache_dir).expanduser(),
            config.speed.cache_limit_gb,
            config.speed.jit == "on",
        )
        try:
            train_and_val = [next(arrays), next(arrays)]
            for array in itertools.chain(train_and_val, arrays):
                del left[0]
                yield FeatureReader(array, config.data.batch_size)
        except OSError as error:
            if config.speed.cache_features == "on":
                raise UserError(
                    f"--cache_features=on, but features can't be cached: {error}"
                ) from error
            log.warning("Reads images, since features can't be cached: %s.", error)
    yield from left


def make_image_readers(config: Config, examples: Examples) -> dict[str, ImageReader]:
    """Makes the readers of the images of train, val and test."""

    def make(of_split: Examples) -> ImageReader:
        return ImageReader(
            of_split,
            config.data.preprocessing,
            config.data.batch_size,
            config.data.augment,
            config.data.mirror,
            config.run.seed,
        )

    return {
        "train": make(examples.train),
        "val": make(examples.val),
        "test": make(examples.test),
    }


def _make_requests(
    config: Config,
    stages: Sequence[str],
    images: Mapping[str, ImageReader],
    parts: Parts,
    exact: Parts,
) -> list[Request]:
    if parts.frozen is None or exact.frozen is None:
        return []
    precision = keras.config.dtype_policy().name
    is_map = len(parts.frozen.output_shape) > 2
    origin = {
        "backbone": parts.backbone.name,
        "trained stages": list(stages),
        "fold": config.speed.fold_batch_norm,
        "jit": config.speed.jit,
    }
    return [
        Request(
            name=name,
            frozen=parts.frozen if name == "train" else exact.frozen,
            precision=precision if name == "train" else "float32",
            reader=reader,
            views=config.speed.feature_views if name == "train" else 1,
            # Feature maps are large, and training tolerates the rounding; val and
            # test must have the results of the saved model.
            dtype="float16" if is_map and name == "train" else "float32",
            origin=origin,
        )
        for name, reader in images.items()
    ]
