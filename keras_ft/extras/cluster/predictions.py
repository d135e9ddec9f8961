"""Classifies images by actors on a Ray cluster."""

import collections
import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_ft.config.modes import ClusterConfig
from keras_ft.config.schema import DataConfig
from keras_ft.data.pixel_limit import set_limit
from keras_ft.errors import UserError
from keras_ft.extras.cluster.connection import (
    Share,
    connected,
    describe,
    explain,
    get_node,
)
from keras_ft.host.startup import import_tensorflow
from keras_ft.kinds.task import Task
from keras_ft.runs.find_model import hash_model

if TYPE_CHECKING:
    from keras_ft.serving.trained_classifier import Prediction

log = logging.getLogger("keras_ft")

_BATCHES_PER_SHARD = 4
# While one is classified, the next one is read and decoded.
_SHARDS_PER_ACTOR = 2
# How often actors may die without any work done between, or once each if they are more.
_DEATHS_IN_A_ROW = 5
_SYSTEM_ERRORS = set(map(os.strerror, errno.errorcode))

Classify = Callable[[Iterable[str]], Generator["Prediction", None, None]]


class _Shard(NamedTuple):
    number: int
    files: list[str]


@contextlib.contextmanager
def open_classifier(
    model: Path, data: DataConfig, config: ClusterConfig
) -> Iterator[tuple[tuple[Task, ...], Classify]]:
    """Loads a classifier on a Ray cluster, in as many actors as it has room for.

    Yields:
        The tasks of the classifier, and a function of file paths to their predictions
        with the same result as `trained_classifier.classify`.

    Raises:
        UserError: The cluster can't be used, or a node can't load the classifier.
    """
    import ray

    path = os.path.join(os.getcwd(), model)
    with connected(config) as share:
        actor = ray.remote(_Actor).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_concurrency=_SHARDS_PER_ACTOR,
            scheduling_strategy="SPREAD",
        )
        digest = hash_model(model)
        pool = _Pool(lambda: actor.remote(path, digest, data, share), share.count)
        tasks = pool.wait_for_tasks()
        yield tasks, lambda files: _classify(pool, files, data.batch_size)


class _Actor:
    """Classifies images in a process on a node of the cluster."""

    def __init__(self, model: str, digest: str, data: DataConfig, share: Share):
        self._model = Path(model)
        self._digest = digest
        self._batch_size = data.batch_size
        set_limit(data.max_megapixels)
        share.apply()

    def load(self) -> tuple[Task, ...]:
        """Loads the classifier, that of the digest, and returns its tasks."""
        exists = self._model.exists()
        if not exists or hash_model(self._model) != self._digest:
            raise UserError(
                "--cluster: all nodes must share the file system of --model. Received: "
                f"node {get_node()}, where {self._model} is "
                + ("another one" if exists else "missing")
            )
        import_tensorflow()
        from keras_ft.serving.trained_classifier import load_classifier

        self._classifier = load_classifier(self._model)
        return self._classifier.tasks

    def classify(self, files: Sequence[str]) -> tuple[str, list["Prediction"]]:
        """The node's address, and the predictions of image files."""
        from keras_ft.serving.trained_classifier import classify

        predictions = classify(self._classifier, files, self._batch_size)
        return get_node(), list(predictions)


class _Pool:
    """Actors that classify shards; one that dies is replaced."""

    def __init__(self, make_actor: Callable[[], Any], count: int):
        # Those that have loaded the classifier, once for each shard that they can take.
        self.free: collections.deque[Any] = collections.deque()
        self.count = count
        self._make_actor = make_actor
        # What has been called and has not returned: a shard, or None to load.
        self._calls: dict[Any, tuple[Any, _Shard | None]] = {}
        self._dead: set[Any] = set()
        self._deaths_in_a_row = 0
        for _ in range(count):
            self._add_actor()

    def wait_for_tasks(self) -> tuple[Task, ...]:
        """Waits until an actor has loaded the classifier; returns its tasks."""
        while (answer := self.wait()[1]) is None:  # there are no shards yet
            pass
        return answer

    def send(self, shard: _Shard) -> None:
        """Sends a shard to a free actor."""
        actor = self.free.popleft()
        self._calls[actor.classify.remote(shard.files)] = (actor, shard)

    def wait(self) -> tuple[_Shard | None, Any]:
        """Waits until any call returns; gives its shard and what it returned.

        The shard is None if an actor has loaded the classifier, and what the call
        returned is None if the actor has died.
        """
        import ray

        [done], _ = ray.wait(list(self._calls))
        actor, shard = self._calls.pop(done)
        try:
            answer = ray.get(done)
        except ray.exceptions.RayActorError as error:
            self._replace(actor, error)
            return shard, None
        except ray.exceptions.RayError as error:
            raise explain(error) from None
        if shard:  # not if an actor loads, which dies on the next shard, maybe
            self._deaths_in_a_row = 0
        if actor not in self._dead:
            self.free.extend([actor] * (1 if shard else _SHARDS_PER_ACTOR))
        return shard, answer

    def _add_actor(self) -> None:
        actor = self._make_actor()
        self._calls[actor.load.remote()] = (actor, None)

    def _replace(self, actor: Any, error: Exception) -> None:
        """Starts another actor in place of one that has died or can't be reached."""
        import ray

        if actor in self._dead:  # it had another shard, too
            return
        if explain(error) is not error:  # the node does not have this program
            raise explain(error) from None
        ray.kill(actor)
        self._dead.add(actor)
        self.free = collections.deque(one for one in self.free if one != actor)
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > max(_DEATHS_IN_A_ROW, self.count):
            raise UserError(
                f"--cluster: {self._deaths_in_a_row} processes in a row have died, "
                f"perhaps because the memory was full. {describe(error)}"
            ) from error
        log.warning("Images are classified again elsewhere: %s", describe(error))
        self._add_actor()


def _classify(
    pool: _Pool, files: Iterable[str], batch_size: int
) -> Generator["Prediction", None, None]:
    """Classifies image files in shards of whole batches; see `open_classifier`.

    Rounding depends on the size of a batch, so the batches are those of one process.
    """
    # Paths that are valid in any folder. Not abspath, which changes .. after a link.
    paths = (os.path.join(os.getcwd(), file) for file in files)
    size = _BATCHES_PER_SHARD * batch_size
    parts = iter(lambda: list(itertools.islice(paths, size)), [])
    shards = itertools.starmap(_Shard, enumerate(parts))
    # As many may be done early as are in work.
    limit = 2 * _SHARDS_PER_ACTOR * pool.count
    unfinished: collections.deque[_Shard] = collections.deque()
    again: list[_Shard] = []
    done: dict[int, list[Prediction]] = {}

    def take() -> _Shard | None:
        if again or len(unfinished) == limit:
            return again.pop() if again else None
        shard = next(shards, None)
        unfinished.extend([shard] if shard else [])
        return shard

    while True:
        while pool.free and (shard := take()):
            pool.send(shard)
        if pool.free and not unfinished:
            return
        shard, answer = pool.wait()
        if shard and answer is None:
            again.append(shard)
        elif shard:
            done[shard.number] = _check_seen(shard, *answer)
        while unfinished and unfinished[0].number in done:
            yield from done.pop(unfinished.popleft().number)


def _check_seen(
    shard: _Shard, node: str, predictions: list["Prediction"]
) -> list["Prediction"]:
    """Raises a UserError if a node could not read a file that is readable here."""
    for file, (_, error) in zip(shard.files, predictions, strict=True):
        is_readable_here = os.path.isfile(file) and os.access(file, os.R_OK)
        if error in _SYSTEM_ERRORS and is_readable_here:
            raise UserError(
                "--cluster: all nodes must share the file system of the images. "
                f"Received: node {node}, which can't read {file}: {error}"
            )
    return predictions
