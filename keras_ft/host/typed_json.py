"""JSON documents, which may be damaged or another program's, as values of a type."""

import dataclasses
import json
import math
import stat
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_ft.host import files

# A metrics.json with a confusion matrix of 2,000 classes has 300 MB.
_MAX_BYTES = 1_000_000_000
_WORDS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


def read_json(path: Path, shape: Any = Any) -> Any:
    """Reads a JSON file of a type, see `parse_json`.

    Raises:
        OSError: It can't be read, or is no file or too large.
        ValueError: It is no JSON, or of another type.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no file")
    if status.st_size > _MAX_BYTES:
        raise OSError(f"its size is {status.st_size / 1e9:.1f} GB")
    return parse_json(files.read_bytes(path), shape)


def parse_json(text: str | bytes, shape: Any = Any) -> Any:
    """Parses a JSON document of a type.

    The type consists of `TypedDict`, dataclasses, mappings, sequences, unions and
    plain types. A dataclass stands for a dict of some of its fields. A dict may have
    more keys, as a later version may write, and numbers must be finite.

    Raises:
        ValueError: It is no JSON, or of another type.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_type(content, shape)
    return content


def check_type(value: Any, shape: Any, name: str = "it") -> None:
    """Raises a ValueError unless a parsed document, or part of one, is of a type."""
    origin, arguments = typing.get_origin(shape) or shape, typing.get_args(shape)
    if shape is Any:
        return
    if origin in (typing.Union, types.UnionType):
        _check_union(value, arguments, name)
    elif typing.is_typeddict(shape) or dataclasses.is_dataclass(shape):
        _check(isinstance(value, dict), name, "an object", value)
        missing = sorted(getattr(shape, "__required_keys__", frozenset()) - set(value))
        if missing:
            raise ValueError(f"{name} must have {', '.join(missing)}")
        for key, of_key in typing.get_type_hints(shape).items():
            if key in value:
                check_type(value[key], of_key, key if name == "it" else f"{name}.{key}")
    elif isinstance(origin, type) and issubclass(origin, str | bool | int | float):
        kinds = (int, float) if origin is float else (origin,)
        fits = type(value) in kinds and (kinds == (str,) or _is_finite(value))
        _check(fits, name, _WORDS[origin], value)
    elif origin is types.NoneType:
        _check(value is None, name, "null", value)
    elif issubclass(origin, Mapping):
        _check(isinstance(value, dict), name, "an object", value)
        for key, item in value.items():
            check_type(item, (arguments or (str, Any))[1], f"{name}.{key}")
    elif issubclass(origin, Sequence):
        _check(isinstance(value, list), name, "a list", value)
        if origin is tuple and Ellipsis not in arguments:
            count = len(arguments)
            _check(len(value) == count, name, f"a list of length {count}", value)
        for i, item in enumerate(value):
            check_type(item, (arguments or (Any,))[0], f"{name}[{i}]")
    else:
        raise TypeError(f"no type of JSON: {shape}")


def _check_union(value: Any, shapes: Sequence[Any], name: str) -> None:
    errors = []
    for shape in shapes:
        try:
            check_type(value, shape, name)
            return
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _check(fits: bool, name: str, expected: str, value: Any) -> None:
    if not fits:
        text = repr(value)
        text = text if len(text) <= 40 else f"{text[:40]} ..."
        raise ValueError(f"{name} must be {expected}. Received: {text}")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
