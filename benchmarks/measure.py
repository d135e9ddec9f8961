"""Commands, clocks and tables that the benchmarks share. Imports no framework."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_splits

ROOT = Path(__file__).parents[1]

# What oneDNN, and PyTorch beside it, take from the environment.
ENVIRONMENT = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")

# By kind (forward, step, roof), then by name.
Cases = dict[str, dict[str, Callable[[], object]]]
Seconds = dict[str, dict[str, float]]

_WRITE_WEIGHTS = """
import sys
from keras_ft.models.weights import load_backbone

name, image_size, weights, path = sys.argv[1:]
size = int(image_size)
load_backbone(name, (size, size), (weights,))[0].save_weights(path)
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished command.

    Attributes:
        seconds: Wall time, start-up included.
        peak_bytes: Most anonymous memory that its process held; 0 where the system
            has no /proc.
        epochs: Rows of the CSV file that was watched, in order, each with `seconds`,
            the time after the start at which it appeared.
    """

    seconds: float
    peak_bytes: int
    epochs: list[dict[str, float]]


class Timeline:
    """Notes when the rows of a program's history appear.

    Reading the file from outside times all programs alike, and changes none of them.

    Args:
        history: CSV file with one row per epoch and a column `val_accuracy`; it need
            not exist yet. None if there is none.
    """

    def __init__(self, history: Path | None) -> None:
        self.history = history
        self.start = time.perf_counter()
        self.epochs: list[dict[str, float]] = []

    def update(self) -> None:
        """Adds the rows that are new."""
        if not self.history or not self.history.exists():
            return
        complete = self.history.read_text().rpartition("\n")[0]
        rows = list(csv.DictReader(complete.splitlines()))
        seconds = time.perf_counter() - self.start
        for row in rows[len(self.epochs) :]:
            accuracy = float(row["val_accuracy"])
            self.epochs.append({"seconds": seconds, "val_accuracy": accuracy})


def child_environment() -> dict[str, str]:
    """The environment in which this checkout's keras_ft is the one imported."""
    return os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}


def run(
    arguments: Sequence[object],
    log: Path,
    history: Path | None = None,
    python: str = sys.executable,
) -> Run:
    """Runs Python with some arguments in the repository's root.

    Args:
        arguments: What follows `python` on the command line.
        log: File for the command's output; its folder is made.
        history: File of the command's epochs, see `Timeline`.
        python: The interpreter, which may be that of another environment.

    Raises:
        SystemExit: The command failed; the message has the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [python, *map(str, arguments)]
    timeline = Timeline(history)
    with (
        open(log, "w") as stream,
        subprocess.Popen(
            command, cwd=ROOT, env=child_environment(), stdout=stream, stderr=stream
        ) as process,
    ):
        peak = 0
        while process.poll() is None:
            peak = max(peak, read_anonymous(process.pid))
            timeline.update()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
    seconds = time.perf_counter() - timeline.start
    timeline.update()
    if process.returncode:
        output = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"Failed: {' '.join(command)}\n{output}")
    print(f"{seconds:8.1f} s  {log.parent.name}/{log.stem}", file=sys.stderr)
    return Run(seconds, peak, timeline.epochs)


def run_program(
    arguments: Sequence[object], workdir: Path, python: str = sys.executable
) -> dict:
    """Runs a program that trains, and writes history.csv and metrics.json as ours does.

    Args:
        arguments: Script and flags, all but `--workdir`.
        workdir: The folder that it makes.
        python: The interpreter.

    Returns:
        Durations and peak memory of the command, its epochs, and its results. `parts`
        are the durations that it reports itself.
    """
    finished = run(
        [*arguments, f"--workdir={workdir}"],
        workdir.with_suffix(".log"),
        workdir / "history.csv",
        python,
    )
    metrics = json.loads((workdir / "metrics.json").read_text())
    phases = {name: phase["seconds"] for name, phase in metrics["phases"].items()}
    return {
        "seconds": finished.seconds,
        "head_seconds": phases["head"],
        "finetune_seconds": phases.get("finetune"),
        "val_accuracy": metrics["val"]["accuracy"],
        "test_accuracy": metrics["test"]["accuracy"],
        "peak_bytes": finished.peak_bytes,
        "epochs": finished.epochs,
        "parts": metrics["seconds"],
    }


def run_checkout(checkout: Path, flags: Sequence[str], folder: Path) -> float:
    """Trains by the run.py of a checkout, with a cache of its own, in `folder / "run"`.

    Returns:
        Seconds of the whole command.

    Raises:
        SystemExit: The command failed; the message has the end of its output.
    """
    places = [f"--workdir={folder / 'run'}", f"--cache_dir={folder / 'cache'}"]
    start = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "run.py", *flags, *places],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise SystemExit(f"Failed: {' '.join(flags)}\n{finished.stderr[-3000:]}")
    return time.perf_counter() - start


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
    if Path(weights).is_file():  # commands run in another folder
        weights = str(Path(weights).resolve())
    run(
        ["-c", _WRITE_WEIGHTS, backbone, image_size, weights, path],
        path.with_suffix(".log"),
    )
    return path


def link_images(
    data: str, target: Path, counts: dict[str, int], *, repeat: bool = False
) -> dict[str, int]:
    """Makes a smaller or larger data set of links to another's images.

    Takes the first images of each class, one class after the other in turn.

    Args:
        data: What `--data` takes.
        target: Folder to make: one folder per split, and in each one folder per class.
        counts: Examples wanted by split.
        repeat: Whether to link images again, under other names, where there are fewer
            than wanted.

    Returns:
        Images linked, by split.
    """
    examples = load_splits(Config(mode="check", data=data).data, seed=0)
    linked = {}
    for split, count in counts.items():
        part = examples.split(split)
        classes = [
            [(name, Path(file)) for file in part.files[part.labels == label]]
            for label, name in enumerate(examples.class_names)
        ]
        turns = itertools.zip_longest(*classes)
        pool = [image for turn in turns for image in turn if image]
        picked = (itertools.cycle if repeat else iter)(pool)
        linked[split] = 0
        for number, (name, file) in enumerate(itertools.islice(picked, count)):
            # Keras's loader passes over .webp; decoders go by the content of a file.
            link = target / split / name / f"{number:06d}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
            linked[split] += 1
    return linked


def describe_machine() -> dict:
    """What speed depends on: processor, environment, versions."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    cpu = dict(re.findall(r"^(.*?)\s*: (.*)$", text, re.MULTILINE))
    flags = cpu.get("flags", "").split()
    versions = {}
    for package in ("tensorflow", "keras", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "processor": cpu.get("model name", "unknown"),
        "cores": os.cpu_count(),
        "AVX2": "avx2" in flags,
        "AVX-512": "avx512f" in flags,
        "AVX512-BF16": "avx512_bf16" in flags,
        "AMX": "amx_tile" in flags,
        **{name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        **versions,
    }


def median(runs: list[dict], column: str) -> float | None:
    """The median over runs, or None for what they do not have."""
    values = [run[column] for run in runs]
    return None if None in values else statistics.median(values)


def number(value: float | None, digits: int) -> str:
    """A table's cell."""
    return "" if value is None else f"{value:.{digits}f}"


def ratio(value: float | None, reference: float | None) -> str:
    """A table's cell: value over reference; empty where there is none."""
    return number(value / reference, 2) if value and reference else ""


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
