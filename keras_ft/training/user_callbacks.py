"""The user's callbacks: from `fine_tune(callbacks=...)` and `--callbacks`."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_ft.errors import UserError
from keras_ft.host import user_code


def load_callbacks(
    given: Sequence[Any], references: Sequence[str]
) -> list[keras.callbacks.Callback]:
    """All of the user's callbacks; a UserError if one is not a Keras callback."""
    if isinstance(given, keras.callbacks.Callback):
        raise UserError(
            "callbacks must be a list, also if there is one. Received: "
            f"{type(given).__name__}"
        )
    made = {f"--callbacks={r}": _make(r) for r in references}
    named = {**{f"callbacks[{i}]": c for i, c in enumerate(given)}, **made}
    for name, callback in named.items():
        if not isinstance(callback, keras.callbacks.Callback):
            raise UserError(
                f"{name} must be a keras.callbacks.Callback. Received: {callback!r:.80}"
            )
    return list(named.values())


def _make(reference: str) -> Any:
    factory = user_code.load("callbacks", reference)
    with user_code.calling("callbacks", reference):
        return factory()
