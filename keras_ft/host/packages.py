"""Packages that only some features need, which an extra of this package installs."""

import importlib.util

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
