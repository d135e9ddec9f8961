"""Templates -> self-contained HTML pages."""

from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup

from keras_ft.host.text import counted, shorten, visible


def render(template_name: str, **values: Any) -> str:
    """Renders a template of this package as HTML.

    Templates that extend `base.html` become pages that load no other file and run no
    script. Values may contain any text: HTML is escaped, and invisible characters
    become escape sequences.

    Raises:
        jinja2.UndefinedError: A variable of the template is missing.
    """
    return load_page(template_name).render(values)


def load_page(name: str) -> jinja2.Template:
    """Loads a template for `render`, which takes longer than rendering a small one."""
    return load_template(
        name,
        visible,
        shorten=lambda text: shorten(visible(text)),
        percent=lambda fraction: Markup("{:.1f}&nbsp;%").format(100 * fraction),
        points=lambda fraction: f"{100 * abs(fraction):.1f}",
    )


def load_template(
    name: str, escape: Callable[[str], str], **filters: Callable[..., Any]
) -> jinja2.Template:
    """Loads a template of this package.

    `escape` is applied to every string that the template inserts, except `Markup`; in
    an HTML template before HTML is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_ft.report"),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        # Not `isinstance`: `Markup`, which is a subclass of str, is escaped already.
        finalize=lambda value: escape(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"counted": counted, **filters}
    return environment.get_template(name)
