"""Templates -> self-contained HTML pages. Imports no TensorFlow."""

from typing import Any

import jinja2
from markupsafe import Markup

from keras_ft.report.plots import visible


def render(template_name: str, **values: Any) -> str:
    """Fills in a template of this package.

    Args:
        template_name: A file in `templates/`. Those that extend `base.html` become
            pages that load nothing and run nothing.
        values: What the template names. Strings are escaped as text, and characters
            that can't be seen are shown as escape sequences, so that names of classes
            and files may be anything.

    Raises:
        jinja2.UndefinedError: The template names a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_ft.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["points"] = lambda fraction: f"{100 * abs(fraction):.1f}"
    return environment.get_template(template_name).render(values)


def _show(value: Any) -> Any:
    # Not `isinstance`: what a macro has rendered is a kind of str too.
    return visible(value) if type(value) is str else value


def _percent(fraction: float) -> Markup:
    return Markup("{:.1f}&nbsp;%").format(100 * fraction)
