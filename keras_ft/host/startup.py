"""Starts TensorFlow and Keras: what they read at import, and a quiet import."""

import os
import re
import sys
import tempfile

from keras_ft.errors import UserError
from keras_ft.host import keras_settings, onednn

# What the loader of libraries and Python say where no memory is left.
_NO_MEMORY = re.compile(
    "MemoryError|failed to map segment|annot allocate memory|can't start new thread"
)


def import_tensorflow(use_onednn: onednn.Choice = "auto") -> None:
    """Imports TensorFlow without the notes that it prints on standard error, and Keras.

    Some of them ignore TF_CPP_MIN_LOG_LEVEL. If the import fails, they are shown. If
    TensorFlow was imported before, `use_onednn` has no effect. For Keras see
    `keras_settings.importing`.
    """
    # Errors remain visible: ours are Python exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with (
        keras_settings.importing(),
        tempfile.TemporaryFile() as notes,
        onednn.requested(use_onednn),
    ):
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException as error:
            said = _NO_MEMORY.search(f"{type(error).__name__}: {error}")
            if said:
                raise UserError(
                    "There is not enough memory to start TensorFlow. End other "
                    f"programs, or raise the limit. Received: {said[0]}"
                ) from error
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
