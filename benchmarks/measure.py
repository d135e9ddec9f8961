"""Commands, clocks and tables that the benchmarks share. Imports no framework."""

import contextlib
import dataclasses
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

# By kind (forward, step, roof), then by name.
Cases = dict[str, dict[str, Callable[[], object]]]
Seconds = dict[str, dict[str, float]]

_WRITE_WEIGHTS = """
import sys
from keras_ft.models.weights import load_backbone

name, image_size, weights, path = sys.argv[1:]
load_backbone(name, int(image_size), (weights,))[0].save_weights(path)
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished command.

    Attributes:
        seconds: Wall time, start-up included.
        peak_bytes: Most anonymous memory that its process held; 0 where the system
            has no /proc.
    """

    seconds: float
    peak_bytes: int


def child_environment() -> dict[str, str]:
    """The environment in which this checkout's keras_ft is the one imported."""
    return os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}


def run(arguments: Sequence[object], log: Path) -> Run:
    """Runs Python with some arguments in the repository's root.

    Args:
        arguments: What follows `python` on the command line.
        log: File for the command's output; its folder is made.

    Raises:
        SystemExit: The command failed; the message has the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *map(str, arguments)]
    start = time.perf_counter()
    with (
        open(log, "w") as stream,
        subprocess.Popen(
            command, cwd=ROOT, env=child_environment(), stdout=stream, stderr=stream
        ) as process,
    ):
        peak = 0
        while process.poll() is None:
            peak = max(peak, read_anonymous(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
    seconds = time.perf_counter() - start
    if process.returncode:
        output = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"Failed: {' '.join(command)}\n{output}")
    print(f"{seconds:8.1f} s  {log.parent.name}/{log.stem}", file=sys.stderr)
    return Run(seconds, peak)


def read_anonymous(pid: int) -> int:
    """Anonymous memory that a process holds now, in bytes; 0 if it can't be read."""
    # The same number as `Anonymous` in smaps_rollup, for which the kernel walks all
    # pages while the process waits: that would slow the commands that are timed.
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def write_weights(backbone: str, image_size: int, weights: str, path: Path) -> Path:
    """Writes a backbone's weights as .weights.h5, in a process of its own.

    Args:
        backbone: A name that `--backbone` takes.
        image_size: Side of the images the backbone is built for.
        weights: One item of what `--weights` takes.
        path: The file to write.
    """
    run(
        ["-c", _WRITE_WEIGHTS, backbone, image_size, weights, path],
        path.with_suffix(".log"),
    )
    return path


def link_images(
    data: Path, target: Path, counts: dict[str, int], *, repeat: bool = False
) -> dict[str, int]:
    """Makes a smaller or larger data set of links to another's images.

    Takes the first images of each class, one class after the other in turn.

    Args:
        data: Folder with a folder per split, and in each one folder per class.
        target: Folder to make.
        counts: Examples wanted by split.
        repeat: Whether to link images again, under other names, where there are fewer
            than wanted.

    Returns:
        Images linked, by split.
    """
    linked = {}
    for split, count in counts.items():
        folders = [f for f in sorted((data / split).glob("[!.]*")) if f.is_dir()]
        files = [sorted(folder.glob("[!.]*")) for folder in folders]
        turns = itertools.zip_longest(*files)
        pool = [file for turn in turns for file in turn if file]
        picked = (itertools.cycle if repeat else iter)(pool)
        linked[split] = 0
        for number, file in enumerate(itertools.islice(picked, count)):
            link = target / split / file.parent.name / f"{number:06d}{file.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
            linked[split] += 1
    return linked


def time_round(cases: Cases) -> Seconds:
    """Calls each case once and returns its seconds, by kind and name."""
    seconds = {kind: {} for kind in cases}
    for kind, functions in cases.items():
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[kind][name] = time.perf_counter() - start
    return seconds


def format_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is the header."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
