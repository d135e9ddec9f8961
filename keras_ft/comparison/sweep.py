"""`--sweep` -> the runs of a comparison: a grid of flags, and their names."""

import dataclasses
import hashlib
import itertools
import re
from pathlib import Path

from keras_ft.config import flags
from keras_ft.config.config import FIELDS, Config
from keras_ft.data.tables import SPLITS_CSV
from keras_ft.errors import UserError

# One value of each flag that is swept, as it was written.
Setting = tuple[tuple[str, str], ...]

# All runs have the same images in the same splits, and are ranked by one metric.
_FIXED = ("seed", "data", "val_fraction", "test_fraction", "on_bad_image", "monitor")
_SWEPT = {
    field.name
    for field in FIELDS.values()
    if field.metadata["affects_result"] and field.name not in _FIXED
}
# What a file name shows as it is; the colon of from:STAGE becomes an underscore.
_PLAIN = re.compile(r"((from|to):)?[A-Za-z0-9_.,+-]*")
_LONGEST_NAME = 150


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a comparison.

    Attributes:
        name: Name of its folder, unique in the comparison.
        setting: The swept flags, as `describe` shows them.
        config: All its flags.
    """

    name: str
    setting: Setting
    config: Config


def plan_runs(config: Config) -> list[Run]:
    """The runs that a comparison asks for.

    Args:
        config: Flags of the comparison. Those that are not swept are for every run.

    Returns:
        Every setting with the first seed, then every one with the next: when a
        comparison is stopped, the settings so far can be compared.

    Raises:
        UserError: `--sweep` is malformed, or a run's flags break a rule.
    """
    values = parse_sweep(config.compare.sweep)
    settings = [
        tuple(zip(values, point, strict=True))
        for point in itertools.product(*values.values())
    ]
    first = config.run.seed
    runs = [
        _make_run(config, setting, seed)
        for seed in range(first, first + config.compare.seeds)
        for setting in settings
    ]
    _check_distinct(runs[: len(settings)])
    return runs


def parse_sweep(text: str) -> dict[str, tuple[str, ...]]:
    """Reads `flag=value|value;flag=value|value`.

    Returns:
        The values of each flag, both in the order of the text.

    Raises:
        UserError: The text is malformed, or a flag can't be swept.
    """
    values = {}
    for part in text.split(";"):
        name, equals, listed = (piece.strip() for piece in part.partition("="))
        name = name.removeprefix("--")
        if not equals or not name:
            raise UserError(
                "--sweep must be flag=value|value, with ; between flags. "
                f"Received: {part.strip() or text}"
            )
        _check_name(name, values)
        values[name] = tuple(value.strip() for value in listed.split("|"))
        _check_values(name, values[name])
    return values


def _check_name(name: str, before: dict[str, tuple[str, ...]]) -> None:
    if name not in FIELDS:
        raise UserError(f"--sweep: there is no flag --{name}. --help lists the flags.")
    if name not in _SWEPT:
        raise UserError(
            "--sweep takes flags that change what is trained; images, splits, seeds "
            f"and --monitor are the same for all. Received: {name}"
        )
    if name in before:
        raise UserError(f"--sweep must name each flag once. Received: {name} twice")


def _check_values(name: str, values: tuple[str, ...]) -> None:
    for i, value in enumerate(values):
        if not value:
            raise UserError(
                f"--sweep: a value of {name} is empty. Received: "
                f"{name}={'|'.join(values)}"
            )
        if value in values[:i]:
            raise UserError(
                f"--sweep must have each value once. Received: {name}={value} twice"
            )


def _make_run(config: Config, setting: Setting, seed: int) -> Run:
    name = make_name((*setting, ("seed", str(seed))))
    folder = Path(config.run.workdir)
    try:
        swept = {flag: flags.parse_value(flag, value) for flag, value in setting}
        of_run = config.replace(
            **swept,
            mode="train",
            sweep="",
            seed=seed,
            data=str(folder / SPLITS_CSV),
            workdir=str(folder / "runs" / name),
        )
    except UserError as error:
        raise UserError(f"--sweep, {describe(setting)}: {error}") from None
    return Run(name, setting, of_run)


def _check_distinct(runs: list[Run]) -> None:
    """Raises a UserError if two settings are one in other words, 0.1 and 1e-1."""
    seen = {}
    for run in runs:
        same = seen.setdefault(identity(run.config), run)
        if same is not run:
            raise UserError(
                "--sweep must have each setting once. Received: "
                f"{describe(same.setting)} and {describe(run.setting)}, which are equal"
            )


def identity(config: Config) -> tuple:
    """Equal for runs that would have equal results, in one comparison."""
    return tuple(
        (field.name, value)
        for field, value in config.items()
        # The data are the same for all, wherever they are.
        if field.metadata["affects_result"] and field.name != "data"
    )


def describe(setting: Setting) -> str:
    """A setting as people read it."""
    return ", ".join(f"{flag}={value}" for flag, value in setting)


def make_name(setting: Setting) -> str:
    """A setting as a file name; other settings have other names."""
    written = ",".join(f"{flag}={value}" for flag, value in setting)
    plain = all(_PLAIN.fullmatch(value) for _, value in setting)
    if plain and len(written) <= _LONGEST_NAME:
        return written.replace(":", "_")
    readable = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", written)[:_LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"
