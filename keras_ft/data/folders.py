"""Folders of images: one folder per class, in one folder per split if there are any."""

import os
from collections.abc import Callable, Iterator, Sequence

from keras_ft.data.examples import SPLIT_ALIASES, Finding, Row
from keras_ft.data.tables import SPLITS_CSV, canonical_path, check_columns, read_table
from keras_ft.errors import UserError

# fmt: off
EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg",
    ".jpg", ".png", ".tif", ".tiff", ".webp",
)
# fmt: on


def walk_images(
    path: str, on_error: Callable[[OSError], None] = lambda _: None
) -> Iterator[str]:
    """Lists the image files below a folder, sorted; or the one file.

    Only the names in one folder, and in those above it, are in memory. `on_error` is
    called with the error of each subfolder that can't be read; it is left out.

    Raises:
        UserError: `path` does not exist.
    """
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        yield from _walk(path, on_error)
    else:
        raise UserError(f"--data must exist. Received: {path}")


def _walk(
    folder: str,
    on_error: Callable[[OSError], None] = lambda _: None,
    on_finding: Callable[[Finding], None] = lambda _: None,
) -> Iterator[str]:
    """Lists the image files below a folder, sorted, and finds what is left out."""
    try:
        with os.scandir(folder) as entries:
            # With the slash at its end, a subfolder is where sorted paths have it.
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
            )
    except OSError as error:
        on_error(error)
        return
    for name in names:
        path = os.path.join(folder, name)
        if not _is_visible(name.rstrip("/")):
            if os.path.isdir(path):
                on_finding(_hidden(path.rstrip("/")))
        elif name.endswith("/"):
            yield from _walk(path, on_error, on_finding)
        elif os.path.isdir(path):  # it could be a cycle
            detail = "a link to a folder; its files are not read"
            on_finding(Finding(path, "suspicious_folder", detail))
        elif name.lower().endswith(EXTENSIONS):
            yield path
        elif name not in ("Thumbs.db", "desktop.ini"):
            detail = "not the extension of an image"
            on_finding(Finding(path, "ignored_file", detail))


def list_folder(folder: str) -> tuple[list[Row], list[Finding]]:
    """Lists the labelled images below a folder.

    Raises:
        UserError: The folder does not exist, or is not organized as expected.
    """
    if not os.path.isdir(folder):
        raise UserError(
            "--data must be a folder or a CSV file that exists, tfds:NAME, or a "
            f"built-in set such as builtin:clothes. Received: {folder}"
        )
    names, findings = _list_subfolders(folder)
    splits = {"": folder}
    if names and set(names) <= set(SPLIT_ALIASES):
        splits = {SPLIT_ALIASES[name]: os.path.join(folder, name) for name in names}
        if len(splits) < len(names):
            raise UserError(
                "--data must have one folder per split. Received: two for val in "
                f"{folder}: {', '.join(names)}"
            )
    rows = []
    for split, split_folder in splits.items():
        split_rows, split_findings = _list_class_folders(split_folder, split)
        rows += split_rows
        findings += split_findings
    table = os.path.join(folder, SPLITS_CSV)
    if os.path.isfile(table):
        rows = _apply_table(table, folder, rows)
    return rows, findings


def _list_class_folders(folder: str, split: str) -> tuple[list[Row], list[Finding]]:
    rows = []
    class_names, findings = _list_subfolders(folder)
    if not class_names:
        raise UserError(
            "--data must contain one folder of images per class. "
            f"Received: {folder} without folders"
        )
    for class_name in class_names:
        class_folder = os.path.join(folder, class_name)
        files = list(_walk(class_folder, on_finding=findings.append))
        if not files:
            detail = "contains no image file"
            findings.append(Finding(class_folder, "empty_folder", detail))
        rows += [Row(file, file, (class_name,), split) for file in files]
    return rows, findings


def _list_subfolders(folder: str) -> tuple[list[str], list[Finding]]:
    """Lists visible subfolders, sorted, and findings about the rest."""
    names, findings = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and _is_visible(entry.name):
            names.append(entry.name)
        elif entry.is_dir():
            findings.append(_hidden(entry.path))
        elif entry.name.lower().endswith(EXTENSIONS):
            detail = "is not in a class folder"
            findings.append(Finding(entry.path, "ignored_file", detail))
    return names, findings


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _hidden(folder: str) -> Finding:
    return Finding(folder, "suspicious_folder", "hidden; its files are not read")


def _apply_table(table: str, folder: str, rows: Sequence[Row]) -> list[Row]:
    """Assigns images the split and group of their row in the folder's splits.csv."""
    assigned = {}
    check_columns(table)
    for _, row in read_table(table):
        for parent in (row.relative_to, folder):
            name = os.path.join(parent, row.path)
            assigned[canonical_path(name)] = (row.split, row.group)
    result, num_found = [], 0
    for example in rows:
        path = canonical_path(example.path)
        if path in assigned:
            num_found += 1
            split, group = assigned[path]
            # A file that an earlier run skipped may be readable now.
            split = "" if split == "skipped" else split
            example = example._replace(split=split, group=group)
        if example.split != "unused":
            result.append(example)
    if not num_found:
        raise UserError(
            f"{table} must list images of {folder}. Received: none of them; pass it as "
            "--data, or remove it from the folder"
        )
    return result
