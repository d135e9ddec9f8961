"""Matplotlib figures of a run, as pictures inside a page."""

import base64
import io
import warnings

import matplotlib
from matplotlib.figure import Figure

# Emoji and ligatures of some scripts are joined by characters that can't be seen.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""Any string as one line of valid UTF-8, on which nothing is hidden.

    Control characters, marks that turn the direction of writing, and bytes of a file
    name that are no UTF-8 become escape sequences such as `\n` and `\u202e`.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode()
        for c in text
    )


def label(text: str, width: int = 28) -> str:
    """A name as Matplotlib should draw it: one short line, and no formula.

    Args:
        text: Any string.
        width: Most characters; of a longer name the middle is left out, as names often
            differ in their ends. Defaults to 28.
    """
    text = visible(text)
    if len(text) > width:
        half = (width - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text.replace("$", r"\$")


def inline(figure: Figure) -> str:
    """Draws a figure as a `data:` address of an SVG picture.

    Its text stays text, which the browser draws: in any script and at any size.
    """
    stream = io.BytesIO()
    style = {"svg.fonttype": "none", "svg.hashsalt": "keras_ft"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Matplotlib's own font only measures here; the browser has others.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figure.savefig(
            stream, format="svg", bbox_inches="tight", metadata={"Date": None}
        )
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/svg+xml;base64,{encoded}"
