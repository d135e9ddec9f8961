"""Flagfiles: one `--name=value` per line, comments, and other flagfiles."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keras_ft.errors import UserError

# A comment follows a blank: `photos#2` is a path.
_COMMENT = r"(?:\s+#.*)?"
_DOUBLE = re.compile(rf'"((?:[^"]|"")*)"{_COMMENT}')
_SINGLE = re.compile(rf"'([^']*)'{_COMMENT}")
# Text with quotes inside, such as a list of quoted items, is taken as it is.
_PLAIN = re.compile(rf"([^\"']*?){_COMMENT}")
_INCLUDE = re.compile(r"--?flagfile(?:=(.*))?", re.DOTALL)


def expand(arguments: Sequence[str]) -> list[str]:
    """Replaces each `--flagfile=FILE` by the flags of the file.

    Raises:
        UserError: A flagfile can't be read, or includes itself.
    """
    return list(_expand(arguments, Path(), ()))


def quote(argument: str) -> str:
    """Writes `--name=value` so that it is read as a line of a flagfile."""
    name, equals, value = argument.partition("=")
    if (
        value.startswith(("'", '"'))
        or value != value.strip()
        or re.search(r"\s#", value)
    ):
        value = '"{}"'.format(value.replace('"', '""'))
    return f"{name}{equals}{value}"


def _expand(
    arguments: Iterable[str], folder: Path, above: tuple[Path, ...]
) -> Iterator[str]:
    """Expands arguments of a file in a folder, or of the command line.

    `above` are the files that led to them.
    """
    remaining = iter(arguments)
    for argument in remaining:
        found = _INCLUDE.fullmatch(argument)
        if not found:
            yield argument
            continue
        # As absl reads it, the file may also be the argument that follows.
        name = found[1] if found[1] is not None else next(remaining, "")
        path = Path(os.path.abspath(folder / os.path.expanduser(name)))
        if path in above:
            raise UserError(f"A flagfile must not include itself. Received: {path}")
        yield from _expand(_read_lines(path), path.parent, (*above, path))


def _read_lines(path: Path) -> Iterator[str]:
    try:
        # What is not UTF-8 is no mistake in a comment.
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(
            "--flagfile must be a file that can be read, with one flag per line. "
            f"Received: {error}"
        ) from None
    for number, line in enumerate(text.split("\n"), 1):
        argument = _read_line(line.strip())
        if re.search("[\udc80-\udcff\0]", argument):
            raise UserError(
                "A flagfile must be text in UTF-8: save it with this encoding. "
                f"Received: {path}, line {number}: {argument!r:.80}"
            )
        if argument:
            yield argument


def _read_line(line: str) -> str:
    """The argument on a line, without quotes and comment."""
    if line.startswith(("#", "//")):
        return ""
    line = _unquote(line)
    name, equals, value = line.partition("=")
    return f"{name}{equals}{_unquote(value)}"


def _unquote(text: str) -> str:
    if found := _DOUBLE.fullmatch(text):
        return found[1].replace('""', '"')
    found = _SINGLE.fullmatch(text) or _PLAIN.fullmatch(text)
    return found[1] if found else text
