"""The only reader of absl: config fields -> flags -> `Config`, and back to a file."""

import dataclasses
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from keras_ft.config.rules import make_config
from keras_ft.config.schema import SECTIONS, Config
from keras_ft.errors import UserError

_DEFINE = {
    bool: absl_flags.DEFINE_boolean,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
    tuple: absl_flags.DEFINE_list,
}


class _AutoNumber(absl_flags.ArgumentParser):
    """Reads a number, or `auto` as None.

    Args:
        number: `int` or `float`.
    """

    def __init__(self, number: type):
        super().__init__()
        self.number = number

    def parse(self, argument: str) -> float | None:
        if argument == "auto":
            return None
        try:
            return self.number(argument)
        except ValueError:
            kind = "whole number" if self.number is int else "number"
            raise ValueError(f"must be a {kind} or auto") from None


# Where a run is, and what is done with it, are not part of what it is.
_NOT_RECORDED = (
    "mode",
    "workdir",
    "overwrite",
    "model",
    "output",
    "top_k",
    "sweep",
    "seeds",
)


def parse(argv: Sequence[str]) -> Config | None:
    """Reads a command line.

    Args:
        argv: The program's name and its arguments; `--flagfile=FILE` is followed.

    Returns:
        The checked config, or None if help was asked for.

    Raises:
        UserError: A flag is unknown or malformed, or breaks a rule of config.py.
    """
    values = absl_flags.FlagValues()
    for _, field in _fields():
        _define(field, values)
    absl_flags.DEFINE_boolean(
        "help", False, "show this help", short_name="h", flag_values=values
    )
    try:
        rest = values(list(argv))[1:]
    except absl_flags.Error as error:
        reason = " ".join(str(error).removeprefix("ERROR:: ").split())
        raise UserError(f"{reason}. --help lists the flags.") from None
    if values.help:
        return None
    if rest:
        raise UserError(
            "Every argument is a flag, --name=value on one line. "
            f"Received: {' '.join(rest)}"
        )
    given = {field.name: _from_absl(values[field.name].value) for _, field in _fields()}
    return make_config(**given)


def help_text() -> str:
    """All flags with their help and defaults, grouped by section."""
    lines = [
        "Fine-tunes a pretrained Keras network on your images and exports a",
        "classifier that serves.",
        "",
        "  python run.py --flagfile=configs/binary.cfg [--flag=value ...]",
    ]
    section = None
    for title, field in _fields():
        if title != section:
            lines += ["", title]
            section = title
        choices = field.metadata.get("choices")
        text = field.metadata["help"]
        if choices:
            text += f" ({' | '.join(choices)})"
        default = to_text(field.default)
        head = f"  --{field.name}={default}" if default else f"  --{field.name}"
        lines.append(head)
        lines += textwrap.wrap(
            text, 79, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    lines += ["", "  --flagfile=FILE", "      read flags from FILE, one per line"]
    return "\n".join(lines)


def to_arguments(config: Config) -> list[str]:
    """The flags that repeat the run in another workdir."""
    return [
        f"--{field.name}={to_text(value)}"
        for field, value in config.items()
        if field.name not in _NOT_RECORDED
    ]


def to_flagfile(config: Config) -> str:
    """The flags that repeat the run in another workdir, one per line."""
    return "".join(f"{argument}\n" for argument in to_arguments(config))


def differences(old: Config, new: Config) -> list[str]:
    """Lines that name each flag whose values differ and may change the result."""
    return [
        f"--{field.name} was {to_text(old_value)}, now {to_text(new_value)}"
        for (field, old_value), (_, new_value) in zip(
            old.items(), new.items(), strict=True
        )
        if field.metadata["affects_result"] and old_value != new_value
    ]


def _fields() -> list[tuple[str, dataclasses.Field]]:
    return [
        (section.__doc__, field)
        for section in SECTIONS.values()
        for field in dataclasses.fields(section)
    ]


def _define(field: dataclasses.Field, values: absl_flags.FlagValues) -> None:
    default, text = field.default, field.metadata["help"]
    for number in (int, float):
        if field.type == number | None:
            parser = _AutoNumber(number)
            absl_flags.DEFINE(parser, field.name, default, text, flag_values=values)
            return
    if isinstance(default, tuple):
        default = list(default)
    define = _DEFINE[typing.get_origin(field.type) or field.type]
    define(field.name, default, text, flag_values=values)


def _from_absl(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def to_text(value: Any) -> str:
    """A value as its flag takes it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
