"""Folders of images: one folder per class, in one folder per split if there are any."""

import os
from collections.abc import Callable, Iterator, Sequence

from keras_ft.data.examples import Finding, Row
from keras_ft.data.file_facts import FORMAT_NAMES, detect_format
from keras_ft.data.layout import (
    OUTSIDE,
    count_ignored,
    find_splits,
    is_no_class,
    parse_split,
    report_layout,
    report_others,
)
from keras_ft.data.tables import SPLITS_CSV, canonical_path, check_columns, read_table
from keras_ft.errors import UserError
from keras_ft.host.files import open_regular
from keras_ft.host.text import counted

# fmt: off
EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)
# What systems make by themselves, also in folders of images, and put copies into.
_OF_SYSTEMS = (
    "$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "lost+found",
)
# fmt: on
# Enough to recognise a format.
_SIGNATURE_BYTES = 256


def walk_images(
    path: str, on_finding: Callable[[Finding], None] = lambda _: None
) -> Iterator[str]:
    """Lists the image files below a folder, sorted; or the one file.

    Only the names in one folder, and in those above it, are in memory. `on_finding` is
    called with each file and folder that is left out.

    Raises:
        UserError: `path` does not exist.
    """
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        yield from _walk(path, on_finding, ())
    else:
        raise UserError(f"--data must exist. Received: {path}")


def _walk(
    folder: str, on_finding: Callable[[Finding], None], above: tuple[str, ...]
) -> Iterator[str]:
    """As `walk_images`, of a folder; `above` are the real paths that led to it."""
    try:
        with os.scandir(folder) as entries:
            # With the slash at its end, a subfolder is where sorted paths have it.
            names = sorted(entry.name + "/" * _is_folder(entry) for entry in entries)
    except OSError as error:
        detail = f"can't be read: {error.strerror}"
        on_finding(Finding(folder, "suspicious_folder", detail))
        return
    above = (*above, os.path.realpath(folder))
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            if not _is_visible(name[:-1]):
                on_finding(_hidden(path[:-1]))
            elif _leads_back(path, above):
                detail = "a link to a folder that contains it; its files are not read"
                on_finding(Finding(path[:-1], "suspicious_folder", detail))
            else:
                yield from _walk(path, on_finding, above)
        elif not _is_visible(name) or name in ("Thumbs.db", "desktop.ini"):
            pass
        elif _is_image(path):
            yield path
        else:
            detail = f"its content is no {FORMAT_NAMES}"
            on_finding(Finding(path, "ignored_file", detail))


def _leads_back(folder: str, above: Sequence[str]) -> bool:
    real = os.path.realpath(folder)
    inside = os.path.join(real, "")  # of the root, it is one slash
    return any(path == real or path.startswith(inside) for path in above)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where one may not look
        return False


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
    inside = {
        name: _list_subfolders(os.path.join(folder, name))[0]
        for name in names
        if parse_split(name)[0]
    }
    splits = find_splits(names, inside)
    if splits:
        findings += report_others(folder, names, splits)
        rows = _list_splits(folder, splits, findings.append)
    else:
        rows = _list_class_folders(folder, names, "", findings.append)
    table = os.path.join(folder, SPLITS_CSV)
    if os.path.isfile(table):
        rows = _apply_table(table, folder, rows)
    return rows, findings


def _list_splits(
    folder: str, names: Sequence[str], on_finding: Callable[[Finding], None]
) -> list[Row]:
    """Lists the images of the splits that have class folders."""
    opened = {name: _open_split(os.path.join(folder, name)) for name in names}
    in_train = {
        class_name
        for name, (_, class_names, _) in opened.items()
        if parse_split(name)[0] == "train"
        for class_name in class_names
    }
    rows: list[Row] = []
    for name, (path, class_names, findings) in opened.items():
        split = parse_split(name)[0]
        unlabelled = {n for n in class_names if is_no_class(n)} - in_train
        if split != "train" and in_train and len(unlabelled) == len(class_names):
            number = sum(1 for _ in walk_images(path))
            detail = (
                "is not read, since it contains no class folders "
                f"({counted(number, 'image')}): {split} is drawn from train"
            )
            on_finding(Finding(path, "unlabelled_split", detail))
            continue
        for finding in findings:
            on_finding(finding)
        in_split = _list_class_folders(path, class_names, split, on_finding)
        if not in_split and split != "train" and in_train:
            detail = f"contains no images: {split} is drawn from train"
            on_finding(Finding(path, "unlabelled_split", detail))
        rows += in_split
    return rows


def _open_split(path: str) -> tuple[str, list[str], list[Finding]]:
    """Finds the class folders of a split: path, names and findings beside them.

    Archives often contain a folder of their own name: `seg_train/seg_train`. Other
    tools need one around the classes: `train/images/cat`.
    """
    split = parse_split(os.path.basename(path))[0]
    names, findings = _list_subfolders(path)
    while len(names) == 1:
        inside = os.path.join(path, names[0])
        inner_names, more = _list_subfolders(inside)
        is_same = parse_split(names[0])[0] == split
        if not is_same and not (is_no_class(names[0]) and inner_names):
            break
        path, names = inside, inner_names
        findings += more
    return path, names, findings


def _list_class_folders(
    folder: str,
    class_names: Sequence[str],
    split: str,
    on_finding: Callable[[Finding], None],
) -> list[Row]:
    if not class_names:
        raise UserError(
            "--data must contain one folder of images per class. "
            f"Received: {folder} without folders"
            + (
                "; if splits are meant as classes, list them in a CSV file"
                * bool(split)
            )
        )
    rows = []
    inside: dict[str, set[str]] = {}
    for class_name in class_names:
        class_folder = os.path.join(folder, class_name)
        ignored: list[Finding] = []
        files = list(walk_images(class_folder, on_finding=ignored.append))
        if not files:
            others = count_ignored(ignored)
            detail = f"contains no image file{others and f'; {others}'}"
            on_finding(Finding(class_folder, "empty_folder", detail))
        for finding in ignored:
            on_finding(finding)
        rows += [Row(file, file, (class_name.strip(),), split) for file in files]
        parts = (file[len(class_folder) + 1 :].partition(os.sep) for file in files)
        if subfolders := {first for first, slash, _ in parts if slash}:
            inside[class_name] = subfolders
    for finding in report_layout(folder, class_names, inside):
        on_finding(finding)
    return rows


def _list_subfolders(folder: str) -> tuple[list[str], list[Finding]]:
    """Lists visible subfolders, sorted, and findings about the rest."""
    names, findings = [], []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"--data must be readable. Received: {error}") from error
    for entry in entries:
        if _is_folder(entry) and _is_visible(entry.name):
            names.append(entry.name)
        elif _is_folder(entry):
            findings.append(_hidden(entry.path))
        elif _is_visible(entry.name) and _is_image(entry.path):
            findings.append(Finding(entry.path, "ignored_file", OUTSIDE))
    return names, findings


def _is_image(path: str) -> bool:
    """Whether a file is read as an image: its name says so, or else its content."""
    if path.lower().endswith(EXTENSIONS):
        return True
    try:
        with open_regular(path) as stream:
            return detect_format(stream.read(_SIGNATURE_BYTES)) is not None
    except OSError:
        return False


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _OF_SYSTEMS


def _hidden(folder: str) -> Finding:
    return Finding(
        folder, "suspicious_folder", "hidden, or of the system; its files are not read"
    )


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
