"""Names of files and classes, which come from anyone, as text that does no harm."""

import re

_JOINERS = "\u200c\u200d"  # of emoji, and letters of some scripts; invisible


def printable(text: str) -> str:
    """Escapes the characters that control a terminal, except line feeds and tabs."""
    control = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    return re.sub(control, lambda found: ascii(found[0])[1:-1], text)


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


def as_text(cell: str) -> str:
    """Keeps spreadsheet programs from evaluating a cell (OWASP, "CSV injection")."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
