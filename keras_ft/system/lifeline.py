"""Connects the workers of a team, and ends them together when one of them ends."""

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.system.workers import Workers

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger("keras_ft")

# How often a worker looks whether the others are alive.
_WATCH_SECONDS = 2.0
# How long TensorFlow takes, at most, to find out that one is not.
_NOTICE_SECONDS = 15.0

# Set when the workers no longer need each other.
has_parted = threading.Event()
# Held for ever by the first thread that ends the process.
_end = threading.Lock()


def connect(workers: Workers) -> "tf.distribute.Strategy":
    """See `Team.connect`."""
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
    has_parted.clear()
    threading.Thread(target=_watch, args=[workers], daemon=True).start()
    return strategy


@functools.cache
def _connect() -> "tf.distribute.Strategy":
    """Makes the strategy; a process can have only one."""
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


@contextlib.contextmanager
def ending_together(workers: Workers) -> Iterator[None]:
    """In this block an error that the end of another worker causes ends the process."""
    try:
        yield
    except Exception as error:
        import tensorflow as tf

        own_errors = (
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
            tf.errors.PermissionDeniedError,
            tf.errors.ResourceExhaustedError,
        )
        if isinstance(error, tf.errors.OpError) and not isinstance(error, own_errors):
            until = time.monotonic() + _NOTICE_SECONDS  # the error may precede the news
            while time.monotonic() < until:
                if _has_ended(workers):
                    _end_process()
                time.sleep(1)
        raise


def _watch(workers: Workers) -> None:
    """Ends this process when another worker has ended.

    Operations that need the other worker fail by themselves, but what takes long may
    need none: decoding, features, the export.
    """
    while not has_parted.wait(_WATCH_SECONDS):
        if _has_ended(workers) and not has_parted.is_set():
            _end_process()


def _has_ended(workers: Workers) -> bool:
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
