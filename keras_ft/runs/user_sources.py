"""Which of the user's own code a run depends on."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import user_code


def hash_sources(config: Config) -> dict[str, str]:
    """Hashes the user's code by flag, see `user_code.source_of`; imports none of it.

    Only that of flags that affect the result.
    """
    sources = {}
    for field, item in _find_references(config):
        if field.metadata["affects_result"]:
            with user_code.calling(field.name, item):
                sources[field.name] = user_code.source_of(item)
    return sources


def import_sources(config: Config) -> None:
    """Imports the user's code that flags name; call it after TensorFlow is imported."""
    for field, item in _find_references(config):
        user_code.load(field.name, item)


def _find_references(config: Config) -> Iterator[tuple[dataclasses.Field, str]]:
    for field, value in config.items():
        if user_code.PREFIX in field.metadata["prefixes"]:
            for item in value if isinstance(value, tuple) else (value,):
                if item.startswith(user_code.PREFIX):
                    yield field, item


def check_same_sources(
    workdir: Path, then: Mapping[str, str], now: Mapping[str, str]
) -> None:
    """Raises a UserError if the code of the run in a workdir has changed."""
    if changed := [flag for flag, source in now.items() if then.get(flag) != source]:
        raise UserError(
            f"The code of --{', --'.join(changed)} has changed since the run in "
            f"{workdir} began. Restore it, or give --overwrite to start again."
        )
