"""Fields that become flags, and the values that they accept.

A flag that describes a run is recorded in the run's flags.cfg and accepted in every
mode, so that a flagfile of a run serves all of them; any other flag names the modes
that it belongs to, and other modes refuse it.
"""

import dataclasses
import operator
import os
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from keras_ft.catalog.preprocessing import ImageSize, parse_image_size
from keras_ft.errors import UserError
from keras_ft.host import user_code

_BOUNDS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
# What begins a value that is a name, where others are paths.
_NAMES = ("builtin:", "tfds:", user_code.PREFIX)
_BEFORE_PATH = ("@", "hub:")
# An address, of which `Path` leaves one slash; or a variable of the shell.
_NO_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/|\$", re.IGNORECASE)


def flag(
    default: Any,
    help: str,
    *,
    modes: tuple[str, ...] = (),
    affects_result: bool = True,
    is_path: bool = False,
    prefix: str | tuple[str, ...] = (),
    **rules: Any,
) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        help: One line for `--help`.
        modes: The modes that it belongs to. Defaults to none: it describes a run.
        affects_result: Whether another value may give another model or metric, which
            one of a flag with modes never does.
        is_path: Whether values are paths on this machine, where `~` is expanded, or
            names, as in `--data` and `--weights`.
        prefix: What begins values other than `choices`; one or several.
        **rules: `choices`, and `hints` by values that are none of them; or the bounds
            `at_least`, `at_most`, `above`, `below`.
    """
    metadata = {
        "help": help,
        "modes": modes,
        "affects_result": affects_result and not modes,
        "is_path": is_path,
        "prefixes": (prefix,) if isinstance(prefix, str) else prefix,
    }
    return dataclasses.field(default=default, metadata=metadata | rules)


def value_type(field: dataclasses.Field) -> tuple[type, bool]:
    """Type of a field's values, and whether `auto` (None) is one of them."""
    kind: Any = field.type
    has_auto = isinstance(kind, types.UnionType)
    kind = typing.get_args(kind)[0] if has_auto else kind  # `KIND | None`
    return typing.get_origin(kind) or kind, has_auto


def check_value(field: dataclasses.Field, value: Any) -> Any:
    """Converts a value to a field's type; a UserError if it breaks a rule."""
    if callable(value) and user_code.PREFIX in field.metadata["prefixes"]:
        raise UserError(
            f"--{field.name} takes no object: a run records where its code is. Write "
            f"it to a file, and give py:MODULE:NAME. Received: {value!r:.80}"
        )
    value = _convert(field, value)
    if field.metadata["is_path"] and value:
        is_list = isinstance(value, tuple)
        paths = [_expand(field.name, path) for path in (value if is_list else [value])]
        value = tuple(paths) if is_list else paths[0]
    choices = field.metadata.get("choices", ())
    prefixes = field.metadata["prefixes"]
    items = value if isinstance(value, tuple) else (value,)
    for item in items if user_code.PREFIX in prefixes else ():
        if str(item).startswith(user_code.PREFIX) or not choices:
            user_code.check_form(field.name, item)
    for item in items if value is not None and (choices or prefixes) else ():
        if item in prefixes or not (item in choices or item.startswith(prefixes)):
            forms = {user_code.PREFIX: user_code.FORM}
            others = (forms.get(prefix, f"{prefix}...") for prefix in prefixes)
            allowed = ", ".join([*choices, *others])
            received = ",".join(items) + _hint(field, item)
            raise UserError(
                f"--{field.name} must be one of {allowed}. Received: {received}"
            )
    for bound, holds in _BOUNDS.items():
        limit = field.metadata.get(bound)
        if limit is not None and value is not None and not holds(value, limit):
            rule = f"{bound.replace('_', ' ')} {limit:g}"
            raise UserError(f"--{field.name} must be {rule}. Received: {value}")
    return value


def check_mode(field: dataclasses.Field, value: Any, mode: str) -> None:
    """Raises a UserError if a flag of other modes does not have its default."""
    modes = field.metadata["modes"]
    if modes and mode not in modes and value != field.default:
        raise UserError(
            f"--{field.name} needs --mode={' or '.join(modes)}. Received: "
            f"--{field.name}={value} with --mode={mode}; leave it out"
        )


def _hint(field: dataclasses.Field, item: str) -> str:
    """What to give instead of a value that is no choice, if that is known."""

    def simplify(text: str) -> str:
        return re.sub(r"[\W_]", "", text).lower()

    hints = field.metadata.get("hints", {})
    choices = field.metadata.get("choices", ())
    same = next((name for name in choices if simplify(name) == simplify(item)), "")
    return hints.get(item.lower(), f"; give {same}" if same else "")


def _expand(flag: str, text: str) -> str:
    """Expands `~` in the path of a value; a UserError if it is an address."""
    if text.startswith(_NAMES):
        return text
    before = next(filter(text.startswith, _BEFORE_PATH), "")
    path = text.removeprefix(before)
    # KerasHub reads addresses of its own.
    if before != "hub:" and _NO_PATH.match(path):
        raise UserError(
            f"--{flag} must be a path on this machine, not an address or a variable "
            "of the shell: mount or copy what is elsewhere, and give its path. "
            f"Received: {text}"
        )
    path = os.path.expanduser(path)
    if path.startswith("~"):
        raise UserError(
            f"--{flag} must begin with a home folder that is known, or without ~. "
            f"Received: {text}; give the whole path, or ./~ for a name with ~"
        )
    return before + path


def _to_item(field: dataclasses.Field, item: Any) -> str:
    """An item of a list as text, which it is in a flag."""
    item = item.tolist() if hasattr(item, "tolist") else item
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if type(item) in (int, float):
        return str(item)
    raise UserError(
        f"--{field.name} must be a list of texts or numbers. Received: {item!r:.80}"
    )


def _convert(field: dataclasses.Field, value: Any) -> Any:
    kind, has_auto = value_type(field)
    if hasattr(value, "tolist"):  # of NumPy: a scalar, or an array of them
        value = value.tolist()
    if has_auto and value in (None, "auto"):
        return None
    if kind is ImageSize:
        try:
            return parse_image_size(value)
        except ValueError:
            raise UserError(
                f"--{field.name} must be a number of pixels, HEIGHTxWIDTH, or auto. "
                f"Received: {value!r}"
            ) from None
    if kind is tuple:
        items = value if isinstance(value, Iterable) else [value]
        items = [value] if isinstance(value, str | os.PathLike) else items
        return tuple(_to_item(field, item) for item in items)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        described = _KINDS.get(kind, "text") + (" or auto" if has_auto else "")
        raise UserError(f"--{field.name} must be {described}. Received: {value!r}")
    return value
