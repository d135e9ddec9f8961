"""Errors of the system during training -> what the user can do about them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_ft.audit.decoding import load_decoded_facts
from keras_ft.config.recipe import Recipe
from keras_ft.data.dataset import list_bad
from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.errors import UserError
from keras_ft.host.files import explain_full_disk

# Raised by Python and TensorFlow if an image file is missing, closed or not an image.
_FILE_ERRORS = (
    OSError,
    tf.errors.FailedPreconditionError,  # a folder
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


@contextlib.contextmanager
def explained_errors(recipe: Recipe, examples: Examples) -> Iterator[None]:
    """Turns errors of the system into ones that say what the user can do."""
    try:
        yield
    except (tf.errors.OpError, OSError, MemoryError) as error:
        raise _explain(error, recipe, examples) from error


def _explain(error: Exception, recipe: Recipe, examples: Examples) -> Exception:
    """A UserError, or the same error if there is nothing that the user can do."""
    if explained := explain_full_disk(error):
        return UserError(explained)
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return UserError(
            "There is not enough memory. Lower --batch_size, "
            f"{recipe.data.batch_size}, or --image_size, {recipe.data.image_size}; as "
            "that is another run, in another --workdir or with --overwrite."
        )
    if not isinstance(error, _FILE_ERRORS):
        return error
    used = examples.take(np.isin(examples.splits, SPLIT_NAMES))
    # These are cached, so that the next run can leave unreadable images out.
    facts = load_decoded_facts(used.files, Path(recipe.data.cache_dir))
    bad = used.paths[facts["problem"] > 0]
    if not len(bad):
        return error
    return UserError(
        "Image files must stay readable while a run needs them. Restore them and give "
        "the same command, or start again without them by --overwrite. Received: "
        f"{list_bad(bad, len(used))}"
    )
