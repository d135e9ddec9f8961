"""Folders of images: one folder per class, in one folder per split if there are any."""

import os
from collections.abc import Callable, Iterator, Sequence

from keras_ft.data.examples import SPLIT_ALIASES, Finding, Row
from keras_ft.data.tables import SPLITS_CSV, canonical_path, check_columns, read_table
from keras_ft.errors import UserError

EXTENSIONS = (
    # fmt: off
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg",
    ".jpg", ".png", ".tif", ".tiff", ".webp",
    # fmt: on
)


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
        yield from _walk_sorted(path, on_error)
    else:
        raise UserError(f"--data must exist. Received: {path}")


def _walk_sorted(folder: str, on_error: Callable[[OSError], None]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # With the slash at its end, a subfolder is where sorted paths have it.
            names = sorted(
                entry.name + "/" * entry.is_dir(follow_symlinks=False)
                for entry in entries
                if _is_visible(entry.name)
            )
    except OSError as error:
        on_error(error)
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            yield from _walk_sorted(path, on_error)
        elif name.lower().endswith(EXTENSIONS) and not os.path.isdir(path):
            yield path


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
        splits = _find_split_folders(folder, names)
    rows = []
    for split, split_folder in splits.items():
        split_rows, split_findings = _list_class_folders(split_folder, split)
        rows += split_rows
        findings += split_findings
    table = os.path.join(folder, SPLITS_CSV)
    if os.path.isfile(table):
        rows = _apply_table(table, folder, rows)
    return rows, findings


def _find_split_folders(folder: str, names: Sequence[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in names:
        split = SPLIT_ALIASES[name]
        if split in splits:
            raise UserError(
                f"--data must have one folder per split. Received: two for {split} "
                f"in {folder}: {', '.join(names)}"
            )
        splits[split] = os.path.join(folder, name)
    return splits


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
        files, more = _walk(class_folder)
        findings += more
        if not files:
            findings.append(
                Finding(class_folder, "empty_folder", "contains no image file")
            )
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
            findings.append(
                Finding(entry.path, "ignored_file", "is not in a class folder")
            )
    return names, findings


def _walk(folder: str) -> tuple[list[str], list[Finding]]:
    """Lists the image files below a folder, sorted, and findings about the rest."""
    files: list[str] = []
    findings: list[Finding] = []
    for parent, subfolders, names in os.walk(folder):
        findings += _check_subfolders(parent, subfolders)
        subfolders[:] = filter(_is_visible, subfolders)
        for name in filter(_is_visible, names):
            path = os.path.join(parent, name)
            if name.lower().endswith(EXTENSIONS):
                files.append(path)
            elif name not in ("Thumbs.db", "desktop.ini"):
                findings.append(
                    Finding(path, "ignored_file", "not the extension of an image")
                )
    return sorted(files), findings


def _check_subfolders(parent: str, names: Sequence[str]) -> Iterator[Finding]:
    for name in sorted(names):
        path = os.path.join(parent, name)
        if not _is_visible(name):
            yield _hidden(path)
        elif os.path.islink(path):  # could be a cycle, so `os.walk` does not follow it
            detail = "a link to a folder; its files are not read"
            yield Finding(path, "suspicious_folder", detail)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _hidden(folder: str) -> Finding:
    return Finding(folder, "suspicious_folder", "hidden; its files are not read")


def _apply_table(table: str, folder: str, rows: Sequence[Row]) -> list[Row]:
    """Assigns images the split and group of their row in the folder's splits.csv."""
    assigned = {}
    check_columns(table)
    for _, row in read_table(table):
        for name in (row.path, os.path.join(folder, row.path)):
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
