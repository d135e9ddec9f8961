"""What a phase computes with: the two parts of the network, and what they read."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.backbones import find_backbone
from keras_ft.config.recipe import Phase, Recipe
from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.errors import UserError
from keras_ft.images import pipeline
from keras_ft.images.decoded import DecodedImages
from keras_ft.images.labels import make_label_reader
from keras_ft.images.pipeline import FeatureReader, ImageReader, Reader
from keras_ft.models.classifier import Parts, split
from keras_ft.models.heads import get_heads, predict_probabilities
from keras_ft.system import devices
from keras_ft.system.distribution import compute_outputs
from keras_ft.system.team import current_team
from keras_ft.training.feature_pass import Request
from keras_ft.training.features import FeatureCache
from keras_ft.training.phase_result import Probabilities
from keras_ft.training.validation import compute_val_logs

log = logging.getLogger("keras_ft")

# Features [B, D], and labels by task.
Batch = tuple[tf.Tensor, dict[str, tf.Tensor]]

_CHUNK = 4096  # examples whose features are read at a time


class TrainedPart:
    """What a phase trains, and its batches: of cached features, or of images.

    The classifier, after `set_trainable`, is split before its first trained layer, and
    only what follows is trained. Predictions for results are those of a float32
    network, which is saved, whatever the precision of training.

    Attributes:
        network: From what is read to a dict of logits by task: what the phase trains.
        heads: Its last layers by task, which are those of the classifier.
        steps: Batches per epoch.
        task_weights: The weight of each task in the loss; their sum is 1.
        features_seconds: Time spent on computing or finding cached features.
    """

    def __init__(
        self, recipe: Recipe, phase: Phase, examples: Examples, classifier: keras.Model
    ):
        self._recipe, self._phase, self._examples = recipe, phase, examples
        self._parts = self._exact = self._split(classifier)
        if self._parts.frozen is not None:
            self._exact = self._split_in_float32(classifier)
        _log_phase(recipe, phase, self._parts)
        begin = time.perf_counter()
        self._readers = _Readers(recipe, phase, examples, self._parts, self._exact)
        self.features_seconds = time.perf_counter() - begin
        self.network = _join(self._parts, self._readers.train)
        self.heads = get_heads(classifier, examples.tasks)
        self._val = _Predictor(examples.val, self._readers.val, keep=True)
        _reset_seeds(self.network, recipe.run.seed)
        self.task_weights = recipe.train.weigh(task.name for task in examples.tasks)
        self.steps = recipe.steps_per_epoch(pipeline.even_number(len(examples.train)))

    def training_batches(self, first_epoch: int) -> tf.data.Dataset:
        """The batches of all epochs from one on.

        A frozen part sees `feature_views` views of the images, in turn by epoch, and
        never mixed images, so that its features can be cached. Without one, each epoch
        has a view of its own.
        """
        recipe, has_frozen = self._recipe, self._parts.frozen is not None
        views = recipe.speed.feature_views
        return pipeline.make_training_dataset(
            self._readers.train,
            self._examples.train,
            seed=recipe.run.seed,
            steps=self.steps,
            epochs=self._phase.epochs,
            first_epoch=first_epoch,
            view_of_epoch=lambda epoch: epoch % views if has_frozen else epoch + 1,
            label_smoothing=recipe.train.label_smoothing,
            mix="none" if has_frozen else recipe.data.mix,
        )

    def feature_batches(self) -> Callable[[], Iterator[Batch]]:
        """A function that goes through all views of train's features, in order.

        They are those that the heads are trained on, float32 [B, D], with labels by
        task. If they are not cached on disk, they are computed and held in memory.
        """
        reader, train = self._readers.train, self._examples.train
        if isinstance(reader, FeatureReader):
            views = reader.features
        else:
            count = self._recipe.speed.feature_views
            views = np.stack([self._compute_view(reader, i) for i in range(count)])
        read_labels = make_label_reader(train, self._recipe.train.label_smoothing)

        def batches() -> Iterator[Batch]:
            for view in views:
                for start in range(0, len(view), _CHUNK):
                    features = tf.constant(view[start : start + _CHUNK], tf.float32)
                    rows = tf.range(start, start + len(features), dtype=tf.int64)
                    yield features, read_labels(rows)

        return batches

    def _compute_view(self, reader: ImageReader, view: int) -> np.ndarray:
        rows = range(len(self._examples.train))
        inputs = pipeline.make_inputs(reader, rows, view)
        return compute_outputs(self._parts.frozen, inputs)[: len(rows)]

    def measure_val(self) -> dict[str, float]:
        """What the logs of an epoch say about val, see `compute_val_logs`."""
        probabilities = self._val.predict(self.network)
        return compute_val_logs(self._examples.val, probabilities, self.task_weights)

    def write_back(self, classifier: keras.Model) -> None:
        """Gives the classifier what was trained, for `predict`, too."""
        self._parts.write_back(classifier)
        if self._phase.stages:
            self._exact = self._split_in_float32(classifier)

    def predict(self) -> dict[str, Probabilities]:
        """The probabilities of val and test, of the float32 network."""
        network = self.network
        if self._exact is not self._parts:
            network = _join(self._exact, self._readers.val)
        val = self._val.predict(network)
        begin = time.perf_counter()
        test = self._readers.load_test()
        self.features_seconds += time.perf_counter() - begin
        if type(test) is not type(self._readers.val):  # no room for its features
            network = _join(self._exact, test)
        predictor = _Predictor(self._examples.test, test)
        return {"val": val, "test": predictor.predict(network)}

    def _split(self, classifier: keras.Model) -> Parts:
        fold = self._recipe.speed.fold_batch_norm == "on"
        return split(classifier, self._examples.tasks, self._phase.stages, fold)

    def _split_in_float32(self, classifier: keras.Model) -> Parts:
        if keras.config.dtype_policy().name == "float32":
            return self._parts
        with devices.precision("float32"):
            return self._split(classifier)


class _Readers:
    """The readers of a phase: of features or images, the same for train and val."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        examples: Examples,
        parts: Parts,
        exact: Parts,
    ):
        self._recipe, data = recipe, recipe.data
        self._images = {
            name: ImageReader(
                examples.split(name),
                data.preprocessing,
                data.batch_size,
                data.augment,
                data.mirror,
                recipe.run.seed,
            )
            for name in SPLIT_NAMES
        }
        if parts.frozen is None:  # a view of each image in each epoch
            self._images["train"].decoded = DecodedImages(data.preprocessing)
        self.train: Reader = self._images["train"]
        self.val: Reader = self._images["val"]
        self._cache: FeatureCache | None = None
        names = find_backbone(parts.backbone.name).stage_names
        if parts.frozen is None and phase.stages[0] != names[0]:
            log.info(
                "Features are not cached: %s begins inside a layer of the network.",
                phase.stages[0],
            )
        if parts.frozen is not None and recipe.speed.cache_features != "off":
            try:
                self._cache = cache = FeatureCache(
                    self._make_requests(phase.stages, parts, exact),
                    Path(data.cache_dir),
                    recipe.speed.cache_limit_gb,
                    recipe.speed.jit == "on",
                )
                self.train, self.val = (self._load(cache, n) for n in ("train", "val"))
            except OSError as error:
                self._give_up(error)

    def load_test(self) -> Reader:
        """Reads test. Its features are computed now, so training began earlier."""
        if self._cache:
            try:
                return self._load(self._cache, "test")
            except OSError as error:
                self._give_up(error)
        return self._images["test"]

    def _load(self, cache: FeatureCache, name: str) -> Reader:
        return FeatureReader(cache.load(name), self._recipe.data.batch_size)

    def _give_up(self, error: OSError) -> None:
        if self._recipe.speed.cache_features == "on":
            raise UserError(
                f"--cache_features=on, but features can't be cached: {error}"
            ) from error
        log.warning("Reads images, since features can't be cached: %s.", error)
        self._cache = None

    def _make_requests(
        self, stages: Sequence[str], parts: Parts, exact: Parts
    ) -> list[Request]:
        origin = {
            "backbone": parts.backbone.name,
            "trained stages": list(stages),
            "jit": self._recipe.speed.jit == "on",
        }
        is_map = parts.frozen is not None and len(parts.frozen.output_shape) > 2
        train = Request(
            "train",
            parts.frozen,
            self._images["train"],
            origin,
            keras.config.dtype_policy().name,
            self._recipe.speed.feature_views,
            # Feature maps are large, and training tolerates the rounding; val and test
            # must have the results of the saved model.
            "float16" if is_map else "float32",
        )
        val, test = (
            Request(name, exact.frozen, self._images[name], origin)
            for name in ("val", "test")
        )
        return [train, val, test]


def _reset_seeds(network: keras.Model, seed: int) -> None:
    """Resets the random generators of a network, those of dropout.

    Phases share layers, so a generator would continue where the phase before left it,
    which a resumed run may not repeat.
    """
    weights = {id(weight) for weight in network.weights}
    states = [state for state in network.variables if id(state) not in weights]
    for i, state in enumerate(states):
        state.assign([seed + i, 0])  # a seed, and how often it was drawn from


def _join(parts: Parts, reader: Reader) -> keras.Model:
    return parts.trainable if isinstance(reader, FeatureReader) else parts.join()


class _Predictor:
    """Predicts a split; its batches are made once: that takes as long as to read."""

    def __init__(self, split: Examples, reader: Reader, keep: bool = False):
        self.reader = reader
        self._team, self._split = current_team(), split
        # Whole batches: how a row is rounded depends on the size of its batch.
        self._rows = self._team.share(len(split), reader.batch_size)
        self._batches = pipeline.make_inputs(reader, self._rows, keep=keep)

    def predict(self, network: keras.Model) -> Probabilities:
        tasks, count = self._split.tasks, len(self._rows)
        shares = predict_probabilities(network, tasks, self._batches, count)
        return {task: self._team.gather(share) for task, share in shares.items()}


def _log_phase(recipe: Recipe, phase: Phase, parts: Parts) -> None:
    num_weights = sum(keras.ops.size(v) for v in parts.trainable.trainable_variables)
    stages = f" and {', '.join(phase.stages)} (BatchNorm {recipe.model.batch_norm})"
    log.info(
        "Phase %s: at most %d epochs, learning rate %g; trains the head%s, %s weights.",
        phase.name,
        phase.epochs,
        phase.learning_rate,
        stages if phase.stages else "",
        f"{num_weights:,}",
    )
    if parts.frozen is not None and recipe.data.mix != "none":
        log.info(
            "--mix=%s does not apply to phase %s: it has a frozen part, whose features "
            "are those of single images.",
            recipe.data.mix,
            phase.name,
        )
