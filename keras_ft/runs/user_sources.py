"""Which of the user's own code a run depends on."""

from collections.abc import Mapping

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.host import user_code


def hash_sources(config: Config) -> dict[str, str]:
    """Imports the user's code that flags name; call it after TensorFlow is imported.

    Returns the `user_code.source_of` of it, by flag; only flags that affect the result.
    """
    sources = {}
    for field, value in config.items():
        if user_code.PREFIX not in field.metadata["prefixes"]:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if item.startswith(user_code.PREFIX):
                user_code.load(field.name, item)
                if field.metadata["affects_result"]:
                    sources[field.name] = user_code.source_of(item)
    return sources


def check_same_sources(
    workdir: str, then: Mapping[str, str], now: Mapping[str, str]
) -> None:
    """Raises a UserError if the code of a run to resume has changed."""
    if changed := [flag for flag, source in now.items() if then.get(flag) != source]:
        raise UserError(
            f"The code of --{', --'.join(changed)} has changed since the run in "
            f"{workdir} began. Restore it, or give --overwrite to start again."
        )
