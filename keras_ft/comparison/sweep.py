"""`--sweep` -> the runs of a comparison: every combination of flag values."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

from keras_ft.catalog.preference import absolute_item
from keras_ft.config import flags
from keras_ft.config.recipe import resolve
from keras_ft.config.settings import FIELDS, Config
from keras_ft.errors import UserError
from keras_ft.runs.paths import RunPaths

# One value of each swept flag, as written in --sweep.
Setting = tuple[tuple[str, str], ...]

# All runs use the same images and splits, and are ranked by one metric.
# fmt: off
_FIXED = (
    "seed", "val_fraction", "test_fraction", "max_megapixels", "on_bad_image",
    "on_rare_class", "monitor",
)
# fmt: on
_SWEPT = {
    field.name
    for field in FIELDS.values()
    if field.metadata["affects_result"] and field.name not in _FIXED
}
# Values that file names contain unchanged, except that a colon becomes an underscore.
_PLAIN = re.compile(r"((from|to):)?[A-Za-z0-9_.,+-]*")
_LONGEST_NAME = 150


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a comparison; `config` has all its flags."""

    setting: Setting
    config: Config

    @property
    def workdir(self) -> Path:
        """The folder of the run, unique in the comparison."""
        return Path(self.config.run.workdir)

    @property
    def log(self) -> Path:
        """The file with the output of the run, beside its folder."""
        return Path(f"{self.workdir}.log")


def plan_runs(config: Config) -> list[Run]:
    """Makes the runs of a comparison, to which flags that are not swept apply, too.

    Returns:
        Every setting with the first seed, then every setting with the next seed, and
        so on: if a comparison is stopped, the runs so far can be compared.

    Raises:
        UserError: `--sweep` is malformed, or a run's flags break a rule.
    """
    values = parse_sweep(config.compare.sweep)
    settings = [
        tuple(zip(values, point, strict=True))
        for point in itertools.product(*values.values())
    ]
    runs = [
        _make_run(config, setting, config.run.seed + i)
        for i in range(config.compare.seeds)
        for setting in settings
    ]
    seen: dict[tuple[Any, ...], Run] = {}
    for run in runs[: len(settings)]:  # settings may be equal, such as 0.1 and 1e-1
        first = seen.setdefault(identity(run.config), run)
        if first is not run:
            equal = f"{describe(first.setting)} and {describe(run.setting)}"
            raise UserError(
                "--sweep must have each setting once. "
                f"Received: {equal}, which are equal"
            )
    return runs


def parse_sweep(sweep: str) -> dict[str, tuple[str, ...]]:
    """Reads `flag=value|value;flag=value|value`: the values of each flag, in order.

    Raises:
        UserError: The text is malformed, or a flag can't be swept.
    """
    values: dict[str, tuple[str, ...]] = {}
    for part in sweep.split(";"):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        name = name.removeprefix("--")
        if not equals or not name:
            raise UserError(
                "--sweep must be flag=value|value, with ; between flags. "
                f"Received: {part.strip() or sweep}"
            )
        listed = tuple(value.strip() for value in text.split("|"))
        _check(name, listed, before=values)
        values[name] = listed
    return values


def _check(name: str, values: tuple[str, ...], before: Container[str]) -> None:
    if name not in FIELDS:
        raise UserError(f"--sweep: there is no flag --{name}. --help lists the flags.")
    if name not in _SWEPT:
        raise UserError(
            "--sweep takes flags that change what is trained; images, splits, seeds "
            f"and --monitor are the same for all runs. Received: {name}"
        )
    if name in before:
        raise UserError(f"--sweep must name each flag once. Received: {name} twice")
    for i, value in enumerate(values):
        if not value:
            given = f"{name}={'|'.join(values)}"
            raise UserError(f"--sweep: a value of {name} is empty. Received: {given}")
        if value in values[:i]:
            raise UserError(
                f"--sweep must have each value once. Received: {name}={value} twice"
            )


def _make_run(config: Config, setting: Setting, seed: int) -> Run:
    folder = Path(config.run.workdir)
    workdir = folder / "runs" / make_name((*setting, ("seed", str(seed))))
    try:
        swept = {flag: flags.parse_value(flag, text) for flag, text in setting}
        weights = swept.pop("weights", config.model.weights)
        if weights is not None:
            weights = tuple(map(absolute_item, weights))
        own = {"weights": weights or "auto", "seed": seed, "workdir": str(workdir)}
        own["data"] = str(RunPaths(folder).splits)
        changed = Config(**(config.recorded() | swept | own))
    except UserError as error:
        raise UserError(f"--sweep, {describe(setting)}: {error}") from None
    return Run(setting, changed)


def identity(config: Config) -> tuple[Any, ...]:
    """A key that identifies a run within a comparison: the flags that affect it."""
    recipe = resolve(config)
    weights = tuple(map(absolute_item, recipe.model.weights))
    return ("weights", weights), *(
        (field.name, value)
        for field, value in recipe.config.items()
        if field.metadata["affects_result"] and field.name != "weights"
    )


def describe(setting: Setting) -> str:
    """A setting as text."""
    return ", ".join(f"{flag}={value}" for flag, value in setting)


def make_name(setting: Setting) -> str:
    """A setting as a file name, a different one for every setting."""
    written = ",".join(f"{flag}={value}" for flag, value in setting)
    plain = all(_PLAIN.fullmatch(value) for _, value in setting)
    if plain and len(written) <= _LONGEST_NAME:
        return written.replace(":", "_")
    readable = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", written)[:_LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(written.encode()).hexdigest()[:8]}"
