"""Facts about image files, cached in a database by a file's path, size and times."""

import concurrent.futures
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_ft.data.examples import Strings
from keras_ft.data.file_facts import FACTS, FACTS_VERSION, Problem, read_header
from keras_ft.data.pixel_limit import max_pixels
from keras_ft.host.progress import Progress

log = logging.getLogger("keras_ft")

# Files per query of the database.
_CHUNK = 2048

# Absolute path, size, time of modification and time of change of a file; None if it
# can't be accessed.
_State = tuple[bytes, int, int, int] | None


def load_header_facts(files: Strings, cache_dir: Path) -> np.ndarray:
    """Loads the facts that the headers of N files contain: `FACTS` [N]."""
    return load_facts(
        files, cache_dir, read_header, _is_header_known, "Reading headers"
    )


def load_facts(
    files: Strings,
    cache_dir: Path,
    compute: Callable[[str, np.void], None],
    is_complete: Callable[[np.void], bool],
    title: str,
    review: Callable[[Sequence[str], Sequence[np.void]], None] | None = None,
) -> np.ndarray:
    """Loads `FACTS` [N] about N files from the cache, and computes the missing ones.

    Args:
        files: N files.
        cache_dir: Where the cache is.
        compute: Fills in the facts of one file; called in several threads.
        is_complete: Whether the cached facts of a file suffice.
        title: Of the progress that is shown.
        review: Adds to the facts of files that were computed, many at once; called in
            this thread while no other computes.
    """
    facts = np.zeros(len(files), FACTS)
    with (
        contextlib.closing(_Cache(cache_dir)) as cache,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(title, len(files), "file") as progress,
    ):
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            chunk_facts = facts[start : start + _CHUNK]
            states = [_get_state(file) for file in chunk]
            for i, cached in cache.read(states):
                chunk_facts[i] = cached
            missing = [i for i in range(len(chunk)) if not is_complete(chunk_facts[i])]
            progress.update(len(chunk) - len(missing))
            new = [chunk[i] for i in missing], [chunk_facts[i] for i in missing]
            for _ in pool.map(compute, *new):
                progress.update()
            if review and missing:
                review(*new)
            cache.write(states, chunk_facts, missing)
    return facts


def _is_header_known(facts: np.void) -> bool:
    # A missing package may have been installed since, and the limit be another one.
    is_too_large = int(facts["width"]) * int(facts["height"]) > max_pixels()
    return (
        facts["header_read"]
        and facts["problem"] != Problem.MISSING_PACKAGE
        and (facts["problem"] == Problem.TOO_LARGE) == is_too_large
    )


def _get_state(file: str) -> _State:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    path = os.fsencode(os.path.abspath(file))
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Cache:
    """The database. Without it nothing is lost but time, so errors are only logged."""

    def __init__(self, cache_dir: Path):
        self.path = cache_dir / f"facts-{FACTS_VERSION}.sqlite3"
        self.database: sqlite3.Connection | None = None
        with self._disabled_by_errors():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.path.touch(exist_ok=False)  # SQLite would let no group write it
            self.database = sqlite3.connect(self.path, timeout=10)
            with self.database:
                self.database.execute(
                    "CREATE TABLE IF NOT EXISTS facts (path BLOB PRIMARY KEY, "
                    "size INT, mtime INT, ctime INT, facts BLOB) WITHOUT ROWID"
                )

    def read(self, states: Sequence[_State]) -> Iterator[tuple[int, np.void]]:
        """Yields index and facts of the files that have not changed."""
        paths = [state[0] for state in states if state]
        query = f"SELECT * FROM facts WHERE path IN ({','.join('?' * len(paths))})"
        cached: dict[_State, bytes] = {}
        with self._disabled_by_errors():
            if self.database is not None:
                rows = self.database.execute(query, paths)
                cached = {tuple(state): facts for *state, facts in rows}
        for i, state in enumerate(states):
            stored = cached.get(state)
            if isinstance(stored, bytes) and len(stored) == FACTS.itemsize:
                yield i, np.frombuffer(stored, FACTS)[0]

    def write(
        self, states: Sequence[_State], facts: np.ndarray, which: Sequence[int]
    ) -> None:
        """Stores the facts of some of the files."""
        rows = [(*state, facts[i].tobytes()) for i in which if (state := states[i])]
        query = "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)"
        with self._disabled_by_errors():
            if self.database is not None:
                with self.database:
                    self.database.executemany(query, rows)

    def close(self) -> None:
        if self.database is not None:
            self.database.close()

    @contextlib.contextmanager
    def _disabled_by_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            log.warning("Facts about files are not cached: %s: %s", self.path, error)
            self.close()
            self.database = None
            if "malformed" in str(error) or "not a database" in str(error):
                with contextlib.suppress(OSError):  # another process may be faster
                    self.path.unlink()
