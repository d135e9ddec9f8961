"""The only reader of absl: fields -> flags -> `Config`, and back to text."""

import csv
import dataclasses
import io
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags as absl_flags

from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.config import flagfile
from keras_ft.config.fields import value_type
from keras_ft.config.modes import MODES
from keras_ft.config.rules import check_data
from keras_ft.config.settings import FIELDS, SECTIONS, Config, explain_unknown
from keras_ft.errors import UserError
from keras_ft.host.packages import find_versions

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: absl_flags.DEFINE_boolean,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
    ImageSize: absl_flags.DEFINE_string,
    tuple: absl_flags.DEFINE_list,
}


class _OrAuto(absl_flags.ArgumentParser):
    """Reads a number or a list, or `auto` as None."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind = kind

    def parse(self, argument: str) -> Any:
        if argument == "auto":
            return None
        if self.kind is tuple:
            return absl_flags.ListParser().parse(argument)
        try:
            return self.kind(argument)
        except ValueError:
            kind = "whole number" if self.kind is int else "number"
            raise ValueError(f"must be a {kind} or auto") from None


def parse(argv: Sequence[str]) -> Config | str:
    """Reads a command line: the program's name and its arguments.

    Returns the config, or the text that is requested by --help or --version. Raises a
    UserError if a flag is unknown or malformed, or breaks a rule.
    """
    values = _read(argv)
    if values.help:
        return help_text()
    if values.version:
        versions = find_versions(["keras_ft", "tensorflow", "keras"])
        return ", ".join(f"{n} {v or '(not installed)'}" for n, v in versions.items())
    config = Config(**_typed(values))
    check_data(config.run.mode, config.data.data)
    return config


def load_flagfile(path: str | os.PathLike, **flags: Any) -> Config:
    """The config of a flagfile, with the values of other flags."""
    return Config(**(_typed(_read(["", f"--flagfile={path}"])) | flags))


def parse_value(name: str, text: str) -> Any:
    """Reads the value of one flag; a UserError if the text is malformed."""
    return _typed(_read(["", f"--{name}={text}"])).get(name)


def _read(argv: Sequence[str]) -> absl_flags.FlagValues:
    values = absl_flags.FlagValues()
    for name, field in FIELDS.items():
        default, text = field.default, field.metadata["help"]
        kind, has_auto = value_type(field)
        if has_auto and kind is not ImageSize:
            absl_flags.DEFINE(_OrAuto(kind), name, default, text, flag_values=values)
        else:
            default = list(default) if isinstance(default, tuple) else default
            _DEFINE[kind](name, default, text, flag_values=values)
    absl_flags.DEFINE_boolean(
        "help", False, "show this help", short_name="h", flag_values=values
    )
    absl_flags.DEFINE_boolean("version", False, "show versions", flag_values=values)
    try:
        rest = values(flagfile.expand(argv))[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise UserError(explain_unknown(error.flagname)) from None
    except (absl_flags.Error, ValueError) as error:  # ValueError: --noNAME=VALUE
        raise UserError(f"{_explain(error)}. --help lists the flags.") from None
    if rest and not (values.help or values.version):
        raise UserError(
            "Every argument is a flag, --name=value on one line. "
            f"Received: {' '.join(rest)[:200]}"
        )
    return values


def _explain(error: Exception) -> str:
    """What absl says of a value that a flag does not take, in one line."""
    text = " ".join(str(error).removeprefix("ERROR:: ").split())
    text = re.sub(r"\('Non-boolean argument.*", "must be true or false", text)
    negated = r"--no(\w+)(=.*) does not take an argument"
    return re.sub(negated, r"--no\1 takes no value. Received: --no\1\2", text)


def _typed(values: absl_flags.FlagValues) -> dict[str, Any]:
    """The values that are not `auto`, which is the default where it is allowed."""
    typed = {name: values[name].value for name in FIELDS}
    return {name: value for name, value in typed.items() if value is not None}


def help_text() -> str:
    """All flags with their help and defaults, grouped by section."""
    lines = [
        "Fine-tunes a pretrained Keras network on your images and exports a",
        "classifier that serves.",
        "",
        "  python -m keras_ft --workdir=runs/mine --data=photos [--flag=value ...]",
        "",
        "A flag of certain modes only has these in brackets.",
    ]
    for section in SECTIONS.values():
        lines += ["", section.__doc__]
        for field in dataclasses.fields(section):
            text, modes = field.metadata["help"], field.metadata["modes"]
            if "choices" in field.metadata:
                text += f" ({' | '.join(field.metadata['choices'])})"
            if modes and modes != MODES:
                text += f" [{', '.join(modes)}]"
            default = to_text(field.default)
            lines.append(f"  --{field.name}" + (f"={default}" if default else ""))
            lines += (f"      {line}" for line in textwrap.wrap(text, 73))
    lines += ["", "  --flagfile=FILE", "      read flags from FILE, one per line"]
    lines += ["", "  --version", "      show the versions of the program and of Keras"]
    return "\n".join(lines)


def to_arguments(config: Config) -> list[str]:
    """The flags that repeat the run in another workdir."""
    return [f"--{name}={to_text(value)}" for name, value in config.recorded().items()]


def to_flagfile(config: Config) -> str:
    """The same, one per line."""
    lines = map(flagfile.quote, to_arguments(config))
    return "".join(f"{line}\n" for line in lines)


def shared_arguments(config: Config) -> list[str]:
    """The flags that all workers must have in common."""
    return [
        f"--{field.name}={to_text(value)}"
        for field, value in config.items()
        if field.metadata["affects_result"] or field.name == "cache_features"
    ]


def differences(old: Config, new: Config) -> dict[str, str]:
    """By flag that may change the result, `--flag was VALUE, now VALUE`."""
    return {
        field.name: f"--{field.name} was {to_text(was)}, now {to_text(now)}"
        for (field, was), (_, now) in zip(old.items(), new.items(), strict=True)
        if field.metadata["affects_result"] and was != now
    }


def to_text(value: Any) -> str:
    """A value as its flag takes it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) is tuple:  # quoted like CSV, so that items may contain commas
        stream = io.StringIO()
        csv.writer(stream, lineterminator="").writerow(value)
        return stream.getvalue()
    return str(value)
