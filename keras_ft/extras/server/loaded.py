"""The models that are loaded, each with its newest version."""

import asyncio
import dataclasses
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from keras_ft.data.to_png import encode_png
from keras_ft.errors import UserError
from keras_ft.extras.server.batching import Batcher
from keras_ft.extras.server.measures import Measures
from keras_ft.extras.server.versions import Version, find_versions
from keras_ft.serving.described import Explain, make_explain
from keras_ft.serving.trained_classifier import (
    Classifier,
    classify_images,
    load_classifier,
)

log = logging.getLogger("keras_ft")

# Probabilities float32 [K] by task; None if the image is damaged.
Answer = dict[str, np.ndarray] | None

# How often the folder is searched for new versions.
RELOAD_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A version of a model, in memory."""

    version: Version
    classifier: Classifier
    explain: Explain | None  # None of an export, which can't make heatmaps


class Served:
    """A model and the images that wait for it."""

    def __init__(self, name: str, loaded: Loaded, batch_size: int, measures: Measures):
        # The version that answers; replaced by newer ones. A batch in progress finishes
        # with the old one.
        self.loaded = loaded
        self.batcher = Batcher(
            self._classify, batch_size, measures.batch_size.labels(name).observe
        )
        measures.waiting.labels(name).set_function(lambda: len(self.batcher))
        measures.version.labels(name).set_function(lambda: self.loaded.version.number)

    def _classify(self, images: list[bytes]) -> list[tuple[Loaded, Answer]]:
        loaded = self.loaded
        answers = classify_images(loaded.classifier, images)
        return [(loaded, answer) for answer in answers]


class Models:
    """All models of a server; `path` is a model, or a folder of several.

    Raises:
        UserError: There is none, or one can't be read.
    """

    def __init__(self, path: Path, batch_size: int, measures: Measures):
        self._path = path
        self._batch_size = batch_size
        self._measures = measures
        self._failed: set[Version] = set()
        self.by_name: dict[str, Served] = {}
        for name, version in find_versions(path).items():
            self._serve(name, load(version))

    async def run(self) -> None:
        """Classifies what arrives, and loads new versions, until it is cancelled."""
        running: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name in self.by_name.keys() - running:
                    tasks.create_task(self.by_name[name].batcher.run())
                running = set(self.by_name)
                await asyncio.sleep(RELOAD_SECONDS)
                await self._reload()

    async def _reload(self) -> None:
        """Loads what is new."""
        try:
            versions = await asyncio.to_thread(find_versions, self._path)
        except (UserError, OSError):  # while it is trained again
            return
        for name, version in versions.items():
            served = self.by_name.get(name)
            is_same = served is not None and served.loaded.version == version
            if is_same or version in self._failed:
                continue
            try:
                self._serve(name, await asyncio.to_thread(load, version))
            except Exception as error:  # whatever it is, the old version answers
                log.warning("Version %d of %s: %s", version.number, name, error)
                self._failed.add(version)

    def _serve(self, name: str, loaded: Loaded) -> None:
        """Serves a version of a model, which may be new."""
        log.info("Serves %s, version %d.", name, loaded.version.number)
        if name in self.by_name:
            self.by_name[name].loaded = loaded
        else:
            self.by_name[name] = Served(name, loaded, self._batch_size, self._measures)


def load(version: Version) -> Loaded:
    """Loads a version, and classifies one image, since the first one takes longer."""
    classifier = load_classifier(version.model)
    classify_images(classifier, [encode_png(Image.new("RGB", (32, 32)))])
    explain = make_explain(classifier) if classifier.network else None
    return Loaded(version, classifier, explain)
