"""`Config`: every flag as requested, checked."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from typing import Any

from keras_ft.config import modes, rules, schema
from keras_ft.config.fields import check_mode, check_value
from keras_ft.errors import UserError


@dataclasses.dataclass(frozen=True, init=False)
class Config:
    """What the user requests: the value of every flag, None where it is `auto`.

    Its sections are those of `--help`.

    Args:
        **flags: Values by flag name, as `--help` lists them; flags that are left out
            keep their defaults. `None` and `"auto"` are the same, but `weights` is
            never None.

    Raises:
        UserError: A flag is unknown, or its value breaks a rule.
    """

    run: modes.RunConfig
    data: schema.DataConfig
    model: schema.ModelConfig
    train: schema.TrainConfig
    speed: schema.SpeedConfig
    selection: schema.SelectionConfig
    export: modes.ExportConfig
    apply: modes.ApplyConfig
    compare: modes.CompareConfig
    serve: modes.ServeConfig
    cluster: modes.ClusterConfig

    def __init__(self, **flags: Any) -> None:
        for name in flags:
            if name not in FIELDS:
                raise UserError(explain_unknown(name))
        if flags.get("weights", "auto") is None:
            raise UserError(
                'weights must be "none" for random weights, as weights=None is in '
                'Keras, or "auto", which is what None means elsewhere. Received: None'
            )
        values = {
            name: check_value(field, flags.get(name, field.default))
            for name, field in FIELDS.items()
        }
        for name, field in FIELDS.items():
            check_mode(field, values[name], values["mode"])
        rules.check_together(values)
        for name, section in SECTIONS.items():
            own = {f.name: values[f.name] for f in dataclasses.fields(section)}
            object.__setattr__(self, name, section(**own))

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={value!r}"
            for f, value in self.items()
            if value != check_value(f, f.default)
        )
        return f"Config({', '.join(changed)})"

    def items(self) -> Iterator[tuple[dataclasses.Field, Any]]:
        """The field and the value of every flag."""
        for name, section in SECTIONS.items():
            for field in dataclasses.fields(section):
                yield field, getattr(getattr(self, name), field.name)

    def recorded(self) -> dict[str, Any]:
        """The flags that describe the run, wherever it is and whatever is done.

        A default in a home folder is that of whoever reads them.
        """
        return {
            f.name: f.default if value == check_value(f, f.default) else value
            for f, value in self.items()
            if not f.metadata["modes"]
        }

    def replace(self, **flags: Any) -> "Config":
        """A copy with other values of some flags, checked like a new config."""
        values = {field.name: value for field, value in self.items()}
        return Config(**{n: v for n, v in values.items() if v is not None} | flags)


SECTIONS: dict[str, Any] = typing.get_type_hints(Config)
FIELDS: dict[str, dataclasses.Field] = {
    field.name: field
    for section in SECTIONS.values()
    for field in dataclasses.fields(section)
}


def explain_unknown(name: str) -> str:
    """Says that there is no flag of this name, and which ones may be meant."""
    words = {"lr": "learning_rate"}.get(name, name).replace("-", "_").split("_")
    alike = [other for other in FIELDS if set(words) <= set(other.split("_"))]
    alike = alike or difflib.get_close_matches(name, FIELDS, cutoff=0.75)
    meant = f"; give --{' or --'.join(alike)}" if alike else ""
    return f"There is no flag --{name}{meant}. --help lists the flags."
