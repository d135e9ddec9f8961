"""Fields that become flags, and the values that they accept."""

import dataclasses
import operator
import os
import types
import typing
from typing import Any

from keras_ft.catalog.preprocessing import ImageSize, parse_image_size
from keras_ft.errors import UserError

_BOUNDS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def flag(default: Any, help: str, *, affects_result: bool = True, **rules: Any) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        default: The flag's default value.
        help: One line for `--help`.
        affects_result: Whether another value may give another model or metric.
        **rules: `choices`, and a `prefix` that begins any other value; or the bounds
            `at_least`, `at_most`, `above`, `below`.
    """
    metadata = {"help": help, "affects_result": affects_result, **rules}
    return dataclasses.field(default=default, metadata=metadata)


def value_type(field: dataclasses.Field) -> tuple[type, bool]:
    """Type of a field's values, and whether `auto` (None) is one of them."""
    if isinstance(field.type, types.UnionType):
        [kind] = (t for t in typing.get_args(field.type) if t is not types.NoneType)
        return kind, True
    return typing.get_origin(field.type) or field.type, False  # type: ignore[return-value]


def check_value(field: dataclasses.Field, value: Any) -> Any:
    """Converts a value to a field's type and checks it.

    Raises:
        UserError: It has another type, is not one of the choices or is out of bounds.
    """
    value = _convert(field, value)
    choices, prefix = field.metadata.get("choices"), field.metadata.get("prefix")
    has_prefix = prefix and str(value).startswith(prefix) and value != prefix
    items = value if isinstance(value, tuple) else (value,)
    if choices and not (has_prefix or (items and set(items) <= set(choices))):
        other = f", or {prefix}..." if prefix else ""
        raise UserError(
            f"--{field.name} must be one of {', '.join(choices)}{other}. "
            f"Received: {','.join(map(str, items))}"
        )
    for bound, holds in _BOUNDS.items():
        limit = field.metadata.get(bound)
        if limit is not None and value is not None and not holds(value, limit):
            rule = bound.replace("_", " ")
            raise UserError(
                f"--{field.name} must be {rule} {limit:g}. Received: {value}"
            )
    return value


def _convert(field: dataclasses.Field, value: Any) -> Any:
    kind, has_auto = value_type(field)
    if has_auto and value in (None, "auto"):
        return None
    if kind is ImageSize:
        return _convert_image_size(field.name, value)
    if kind is tuple:
        items = [value] if isinstance(value, str | os.PathLike) else value
        return tuple(map(os.fspath, items))
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        described = _KINDS.get(kind, "text") + (" or auto" if has_auto else "")
        raise UserError(f"--{field.name} must be {described}. Received: {value!r}")
    return value


def _convert_image_size(name: str, value: Any) -> ImageSize:
    try:
        return parse_image_size(value)
    except ValueError:
        raise UserError(
            f"--{name} must be a number of pixels, HEIGHTxWIDTH, or auto. "
            f"Received: {value!r}"
        ) from None
