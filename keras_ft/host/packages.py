"""Packages: those that only an extra of this one installs, and versions."""

import importlib.metadata
import importlib.util
from collections.abc import Iterable

from keras_ft.errors import UserError


def require(feature: str, package: str, extra: str) -> None:
    """Raises a UserError if the package that a feature needs is missing.

    The package has the name by which it would be imported.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(explain(feature, package, extra))


def explain(feature: str, package: str, extra: str) -> str:
    """Says that a package is missing, and how to install it."""
    name = package.replace("_", "-")
    return f"{feature} needs the package {name}: pip install 'keras_ft[{extra}]'"


def find_versions(names: Iterable[str]) -> dict[str, str | None]:
    """The installed versions of packages; None of one that is not installed.

    This package is not, where it runs from a checkout.
    """
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
