"""Names of files and classes, which come from anyone, and numbers of them, as text."""

import collections
import re
import unicodedata
from collections.abc import Iterable

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


def shorten(text: str, width: int = 28) -> str:
    """A name in `width` characters: it loses its middle, since names differ at ends."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def as_text(cell: str) -> str:
    """Keeps spreadsheet programs from evaluating a cell (OWASP, "CSV injection").

    A number does no harm, and may be the name of a class.
    """
    is_formula = cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    is_number = re.fullmatch(r"[+-]\d+(\.\d*)?", cell)
    return f"'{cell}" if is_formula and not is_number else cell


def counted(number: int, noun: str) -> str:
    """Returns `1 image`, `24 images`, `2 classes`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun if number == 1 else noun + ending}"


def find_alike(names: Iterable[str]) -> list[list[str]]:
    """Returns the names that a reader takes for one, in lists of two and more.

    They differ in case, in how Unicode encodes them, in characters that can't be seen,
    in blanks, hyphens and underscores between words, or in how a number is written.
    """
    alike = collections.defaultdict(list)
    for name in dict.fromkeys(names):
        alike[_simplify(name)].append(name)
    return [same for same in alike.values() if len(same) > 1]


def _simplify(name: str) -> str:
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(c for c in name if unicodedata.category(c) != "Cf")
    name = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", name).strip()
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", name):
        return f"{float(name):g}" if len(name) < 16 else name
    return name.strip(".,;:'\"_ ") or name


def quote(name: str, other: str) -> str:
    """Quotes a name, with escapes if the other one would be shown alike."""
    same = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)
    return ascii(name) if same else repr(name)


def hint_alike(unknown: Iterable[str], known: Iterable[str]) -> str:
    """The end of an error about names that should be known, if some nearly are."""
    unknown, known = set(unknown), set(known)
    pairs = [
        f"{quote(name, other)} and {quote(other, name)}"
        for same in find_alike(sorted(unknown | known))
        for name in sorted(unknown.intersection(same))
        for other in sorted(known.intersection(same))
    ]
    return f"; {', '.join(pairs[:10])} are different names" if pairs else ""
