"""Says why the files that a data set names do not exist."""

import glob
import os
import re

from keras_ft.data.examples import Strings


def explain_missing(paths: Strings, files: Strings) -> str:
    """Counts the files that do not exist, with the first one and what to do about it.

    Args:
        paths: N paths as the user has written them.
        files: Where they lead.

    Returns:
        `2 of 3 files do not exist, the first: ...`; empty if all of them exist.
    """
    pairs = zip(paths, files, strict=True)
    missing = [pair for pair in pairs if not os.path.exists(pair[1])]
    if not missing:
        return ""
    first, advice = _advise(*missing[0])
    return (
        f"{len(missing)} of {len(paths)} files do not exist, the first: {first}; "
        f"{advice}"
    )


def _advise(path: str, file: str) -> tuple[str, str]:
    """The name of a missing file to show, and what to do."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return path, "addresses are not read: download the images"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", path):
        return path, "for a path of Windows, give one that is relative to the table"
    place = os.path.abspath(file)
    try:
        path.encode()
    except UnicodeEncodeError:
        return place, "the path is not UTF-8: save the table as UTF-8"
    if similar := sorted(glob.glob(f"{glob.escape(place)}.*")):
        return place, f"{similar[0]} exists: paths need the extension"
    return place, "paths are relative to the table, or else to the working folder"
