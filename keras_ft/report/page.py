"""Templates -> self-contained HTML pages."""

from typing import Any

import jinja2
from markupsafe import Markup

# Invisible characters that join emoji, and letters of some scripts.
_JOINERS = "\u200c\u200d"


def render(template_name: str, **values: Any) -> str:
    """Renders a template of this package.

    Args:
        template_name: A file in `templates/`. Those that extend `base.html` become
            pages that load no other file and run no script.
        values: The template's variables. Strings may contain anything: HTML is escaped,
            and invisible characters become escape sequences.

    Raises:
        jinja2.UndefinedError: A variable of the template is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_ft.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escape_invisible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["points"] = lambda fraction: f"{100 * abs(fraction):.1f}"
    return environment.get_template(template_name).render(values)


def visible(text: str) -> str:
    r"""Escapes the invisible characters of a string.

    Line feeds and other control characters, marks that change the direction of
    writing, and bytes of a file name that are not UTF-8 become escape sequences such as
    `\n` and `\u202e`, so that the result is one line of valid UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode()
        for c in text
    )


def _escape_invisible(value: Any) -> Any:
    # Not `isinstance`: the result of a macro is a subclass of str, and already escaped.
    return visible(value) if type(value) is str else value


def _percent(fraction: float) -> Markup:
    return Markup("{:.1f}&nbsp;%").format(100 * fraction)
