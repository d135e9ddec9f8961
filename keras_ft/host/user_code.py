"""The user's Python: `py:MODULE:NAME` names an object in a module.

MODULE is as in `import MODULE`, and is looked for in the working directory first. It is
imported when the object is needed: the module may import TensorFlow.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import itertools
import modulefinder
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from keras_ft.errors import UserError

PREFIX = "py:"
FORM = f"{PREFIX}MODULE:NAME"

_PATTERN = re.compile(rf"{PREFIX}([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")
_PACKAGE = str(Path(__file__).parents[1])
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib"))
# The files of the modules that were loaded, by how to name the flag.
_files: dict[str, str] = {}


def check_form(flag: str, reference: str) -> None:
    """Raises a UserError unless a value has the form `py:MODULE:NAME` (`FORM`)."""
    if not _PATTERN.fullmatch(reference):
        raise UserError(
            f"--{flag} must have the form {FORM}, such as py:my_code:{flag} "
            f"for what my_code.py calls {flag}. Received: {reference}"
        )


def load(flag: str, reference: str) -> Any:
    """Imports the module of a reference and returns the object that it names.

    Raises:
        UserError: There is no such module or name, or the file of the module has
            changed since this process imported it.
        Exception: What the module raises, with a note that names the flag.
    """
    _, module_name, name = reference.split(":")
    named = f"--{flag}={reference}"
    try:
        with _in_working_directory():
            module = importlib.import_module(module_name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{error.name}."
        if missing and f"{module_name}.".startswith(missing):
            raise UserError(
                f"{named} must name a module as `import` does, in the working "
                f"directory or installed. Received: {module_name}, which is not found "
                f"in {os.getcwd()}"
            ) from None
        _add_note(error, named)
        raise
    source_of(reference)
    if not hasattr(module, name):
        raise UserError(
            f"{named} must name an object of the module {module_name}. Received: "
            f"{name}, which is not in {module.__file__}"
        )
    _files[named] = str(module.__file__)
    return getattr(module, name)


def source_of(reference: str) -> str:
    """SHA-256 of the source that an object consists of, which need not be imported.

    It covers the file of the module, and those of the modules that it imports, at the
    top or in functions, from the same folder or the working directory. It covers no
    installed package, no module whose name is computed, and no file that is read.

    Raises a UserError if the module is no file or the main script, or has changed
    since this process imported it: what runs is the old code.
    """
    name = reference.split(":")[1]
    with _in_working_directory():
        spec = None if name == "__main__" else importlib.util.find_spec(name)
    if spec is None or not spec.has_location or spec.origin is None:
        raise UserError(
            f"{reference} must name a module in a file, which can be imported again, "
            "not the script or notebook that runs: write the code to a file of its own."
        )
    now = _hash(name, spec.origin)
    module = sys.modules.get(name)
    if module and _hash_imported(module) != now:
        raise UserError(
            f"{module.__file__}, or a module that it imports, has changed since this "
            f"process imported it for {reference}: start Python again."
        )
    return now


@contextlib.contextmanager
def calling(flag: str, reference: str) -> Iterator[None]:
    """Adds a note that names the flag to what a call of its object raises.

    If the arguments do not fit, no frame is the user's by which `noting` would find it.
    """
    try:
        yield
    except Exception as error:
        _add_note(error, f"--{flag}={reference}")
        raise


@contextlib.contextmanager
def noting() -> Iterator[None]:
    """Adds a note to what the user's code raises, if it is loaded in this block.

    The note names all flags whose objects are of a file in the traceback.
    """
    _files.clear()  # an earlier run in this process may have had other flags
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = {frame.filename for frame in frames}
        # AutoGraph and py_function name the file in the text of another exception.
        flags = [
            named
            for named, file in _files.items()
            if file in files or f'"{file}"' in str(error)
        ]
        if flags:
            _add_note(error, ", ".join(flags))
        raise


def describe(error: BaseException) -> str | None:
    """An exception of the user's code with its traceback; None if it is another one.

    The traceback begins in the user's code. The last line names the flag.
    """
    if not any(map(_is_note, getattr(error, "__notes__", ()))):
        return None
    shown = traceback.TracebackException.from_exception(error)
    from_user = itertools.dropwhile(
        lambda frame: frame.filename.startswith((_PACKAGE, *_INSTALLED, "<frozen")),
        shown.stack,
    )
    shown.stack = traceback.StackSummary.from_list(list(from_user))
    return "".join(shown.format()).rstrip()


@contextlib.contextmanager
def _in_working_directory() -> Iterator[None]:
    """In this block Python looks for modules in the working directory first."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # the file may be new, as in a notebook
    try:
        yield
    finally:
        sys.path.remove(folder)


@functools.cache
def _hash_imported(module: ModuleType) -> str:
    """The hash of a module when this process began to use it."""
    return _hash(module.__name__, str(module.__file__))


def _hash(name: str, origin: str) -> str:
    file = Path(origin)
    files = {name: file}
    # The folder in which the top-level package or module lies.
    depth = name.count(".") + (file.name == "__init__.py")
    root = str(file.absolute().parents[depth])
    if not root.startswith(_INSTALLED):
        finder = _Finder([root, os.getcwd()], excludes=["keras_ft"])
        finder.import_hook(name)
        found: dict[str, Any] = dict(finder.modules)
        files |= {n: Path(m.__file__) for n, m in found.items() if m.__file__}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + hashlib.sha256(files[name].read_bytes()).digest())
    return digest.hexdigest()


class _Finder(modulefinder.ModuleFinder):
    """Also takes folders without __init__.py for packages, as `import` does."""

    def find_module(self, name, path, parent=None):
        try:
            return super().find_module(name, path, parent)
        except AttributeError:  # it uses the loader, which such a folder does not have
            find_spec: Any = importlib.machinery.PathFinder.find_spec
            folders = find_spec(name, path or self.path).submodule_search_locations
            return None, list(folders), ("", "", 5)  # in its terms, a package

    def load_package(self, fqname, pathname):
        if isinstance(pathname, str):
            return super().load_package(fqname, pathname)
        package: Any = self.add_module(fqname)
        package.__path__ = pathname  # the folders, without a file to scan
        return package


def _add_note(error: Exception, named: str) -> None:
    if not any(map(_is_note, getattr(error, "__notes__", ()))):
        error.add_note(f"keras_ft: the code of {named} raised this.")


def _is_note(note: str) -> bool:
    return note.startswith("keras_ft: the code of ")
