"""What the workers of a run do together: connect, exchange values, agree, end.

Every worker must make the same calls in the same order, in the scope of the strategy
that `join` returns. Elsewhere, and without other workers, they return at once.
"""

import contextlib
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.system.workers import ALONE, Workers, load_workers

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger("keras_ft")

# How often a worker looks whether the others are alive.
_WATCH_SECONDS = 2.0
# How long TensorFlow takes, at most, to find out that one is not.
_NOTICE_SECONDS = 15.0
_MAX_TEXT = 4096

_has_parted = threading.Event()
# Held for ever by the first thread that ends the process.
_end = threading.Lock()


def join(workers: Workers) -> "tf.distribute.Strategy":
    """Connects this process with the other workers; waits until all have started.

    Must precede every operation of TensorFlow. From then on, until `part`, this process
    ends when another worker does.

    Raises:
        UserError: They can't be reached, or this process has several GPUs.
    """
    import tensorflow as tf

    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus > 1:
        raise UserError(
            "Each of several workers must have one GPU at most: start one worker per "
            f"GPU, each with its own CUDA_VISIBLE_DEVICES. Received: {num_gpus} GPUs"
        )
    log.info(
        "Strategy: multi_worker. Worker %d of %d (%s) waits for the others.",
        workers.index,
        workers.count,
        workers.addresses[workers.index],
    )
    try:
        strategy = _connect()
    except tf.errors.OpError as error:
        raise UserError(
            "The workers of TF_CONFIG must reach each other, and their ports must be "
            f"free. Received: {str(error).partition(chr(10))[0]}"
        ) from error
    log.info("All %d workers are connected.", workers.count)
    _has_parted.clear()
    threading.Thread(target=_watch, args=[workers], daemon=True).start()
    return strategy


@functools.cache
def _connect() -> "tf.distribute.Strategy":
    """Makes the strategy; a process can have only one."""
    import tensorflow as tf

    # Each `gather` traces a function of its own, of a few operations.
    tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())
    return tf.distribute.MultiWorkerMirroredStrategy()


def part(strategy: "tf.distribute.Strategy") -> None:
    """Waits until all workers are here; from then on each may end by itself."""
    with strategy.scope():
        if current_workers().count > 1:
            _has_parted.set()
            wait()


@contextlib.contextmanager
def chief_first(strategy: "tf.distribute.Strategy") -> Iterator[None]:
    """The chief executes this block before the others: it fills caches for them."""
    with strategy.scope():
        workers = current_workers()
        if not workers.is_chief:
            wait()
    yield
    with strategy.scope():
        if workers.is_chief:
            wait()


@contextlib.contextmanager
def ending_together(workers: Workers) -> Iterator[None]:
    """In this block an error that the end of another worker causes ends the process."""
    try:
        yield
    except Exception as error:
        if workers.count > 1:
            _end_if_caused_by_worker(error, workers)
        raise


def _end_if_caused_by_worker(error: Exception, workers: Workers) -> None:
    import tensorflow as tf

    of_this_worker = (
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,
    )
    if not isinstance(error, tf.errors.OpError) or isinstance(error, of_this_worker):
        return
    # The error may precede the news.
    until = time.monotonic() + _NOTICE_SECONDS
    while time.monotonic() < until:
        if _has_ended(workers):
            _end_process()
        time.sleep(1)


def _watch(workers: Workers) -> None:
    """Ends this process when another worker has ended.

    Operations that need the other worker fail by themselves, but what takes long may
    need none: decoding, features, the export.
    """
    while not _has_parted.wait(_WATCH_SECONDS):
        if _has_ended(workers) and not _has_parted.is_set():
            _end_process()


def _has_ended(workers: Workers) -> bool:
    """Whether another worker has ended."""
    import tensorflow as tf
    from tensorflow.python.eager import context  # it is not in the public API

    try:
        return any(context.context().get_task_states(list(workers.jobs.items())))
    except tf.errors.OpError:  # the chief, who is asked, has ended
        return True


def _end_process() -> None:
    """Ends this process with one line and status 1, as a signal would.

    An exception would have to wait for what other threads do inside TensorFlow.
    """
    _end.acquire()
    files.remove_partial()
    line = (
        "keras_ft: Another worker has ended, and a run needs all of them; its own log "
        "says why. The same command on all workers resumes the run."
    )
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


def current_workers() -> Workers:
    """The workers among which TensorFlow's current strategy divides a batch."""
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    is_multi = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return load_workers() if is_multi else ALONE


def gather(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all workers, in the order of the workers.

    Args:
        rows: float32 or int32 [N, ...]; N may differ by worker.
    """
    import tensorflow as tf

    if current_workers().count == 1:
        return rows
    return tf.distribute.get_strategy().gather(tf.constant(rows), axis=0).numpy()


def gather_bytes(rows: np.ndarray) -> np.ndarray:
    """Like `gather`, for rows of any dtype of fixed size: [N]."""
    if current_workers().count == 1:
        return rows
    # Collective operations have no bytes.
    numbers = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    gathered = gather(numbers.astype(np.int32)).astype(np.uint8)
    return np.ascontiguousarray(gathered).view(rows.dtype)[:, 0]


def wait() -> None:
    """Waits until all workers are here."""
    gather(np.zeros([1], np.int32))


def from_chief(text: str) -> str:
    """Returns the text that the chief passes, of at most 4096 bytes."""
    rows = np.array([os.fsencode(text)], f"S{_MAX_TEXT}")
    return os.fsdecode(bytes(gather_bytes(rows)[0]))


def on_chief(workers: Workers, compute: Callable[[], Any]) -> Any:
    """Returns to all workers what a function returns on the chief.

    Args:
        workers: The current workers, or `ALONE` to call it on this one.
        compute: Returns a JSON value of less than 4 kB.

    Raises:
        OSError: It raised one; by all workers.
    """
    if workers.count == 1:
        return compute()
    answer = {}
    if workers.is_chief:
        try:
            answer["value"] = compute()
        except OSError as error:
            answer["error"] = str(error)
    answer = json.loads(from_chief(json.dumps(answer)))
    if "error" in answer:
        raise OSError(answer["error"])
    return answer["value"]


@contextlib.contextmanager
def failing_together(workers: Workers) -> Iterator[None]:
    """At the end of this block all workers raise an OSError if one did.

    Args:
        workers: The current workers, or `ALONE`.
    """
    error = None
    try:
        yield
    except OSError as own:
        error = own
    if workers.count == 1 and error:
        raise error
    if workers.count == 1:
        return
    if not all_agree(error is None):
        raise error or OSError("another worker could not do its share; see its log")


def all_agree(value: bool) -> bool:
    """Whether the value is true for every worker."""
    return bool(gather(np.array([value], np.int32)).all())
