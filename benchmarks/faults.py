"""Injects faults into runs of the program and prints what a user sees.

Needs root, for it mounts small disks in memory.

    python benchmarks/faults.py
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measure import format_table, write_weights

ROOT = Path(__file__).parents[1]


class Lab:
    """A folder for one fault, and the command of a small run in it.

    Args:
        folder: An empty folder.
        weights: Weights of the tiny backbone.
    """

    def __init__(self, folder: Path, weights: Path):
        self.folder = folder
        self.workdir = folder / "run"
        self.cache = folder / "cache"
        self.weights = weights

    def command(self, *flags: str) -> list[str]:
        """The command; `flags` come last, and so win."""
        return [
            *(sys.executable, "run.py", "--data=builtin:faces", "--backbone=tiny"),
            *("--image_size=32", "--head_epochs=3", "--finetune_epochs=3"),
            *(f"--weights={self.weights}", f"--workdir={self.workdir}"),
            *(f"--cache_dir={self.cache}", *flags),
        ]

    def run(self, *flags: str) -> tuple[int, str]:
        """Runs to the end; returns the exit status and the last line of errors."""
        return self.end(self.start(*flags))

    def start(self, *flags: str) -> subprocess.Popen:
        """Starts a run."""
        return subprocess.Popen(
            self.command(*flags),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen) -> tuple[int, str]:
        """Waits for the end of a run."""
        errors = process.communicate()[1].strip()
        if "Traceback" in errors:
            return process.returncode, f"TRACEBACK ... {errors[-300:]}"
        return process.returncode, errors.rpartition("\n")[2]

    def wait_for(self, pattern: str, process: subprocess.Popen) -> None:
        """Waits until a file is there."""
        while not list(self.folder.glob(pattern)) and process.poll() is None:
            time.sleep(0.002)

    def copy_images(self) -> str:
        """The faces as a folder of the user's own; returns the flag that names it."""
        self.run("--head_epochs=1", "--finetune_epochs=0", f"--workdir={self.folder}/x")
        for path in (self.cache / "builtin/faces").glob("[0-9]*"):
            target = self.folder / "images" / ("a" if int(path.name) < 100 else "b")
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{path.name}.png").write_bytes(path.read_bytes())
        return f"--data={self.folder}/images"


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A disk in memory."""
    path.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def remount(path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", path], check=True)


# Each returns exit status, last line, and what became of the run afterwards.
Outcome = tuple[int, str, str]


def again(lab: Lab, *flags: str) -> str:
    """Gives the same command once more."""
    status, line = lab.run(*flags)
    if status:
        return f"exit {status}: {line}"
    metrics = json.loads((lab.workdir / "metrics.json").read_text())
    return f"resumes and finishes, test accuracy {metrics['test']['accuracy']:.2f}"


def full_disk_at(size: str) -> Callable[[Lab], Outcome]:
    def inject(lab: Lab) -> Outcome:
        with small_disk(lab.workdir, size):
            status, line = lab.run()
            remount(lab.workdir, "size=50m")
            return status, line, again(lab)

    return inject


def full_cache(lab: Lab) -> Outcome:
    with small_disk(lab.cache / "features", "20k"):
        process = lab.start()
        errors = process.communicate()[1]
    said = [line for line in errors.splitlines() if "features can't be cached" in line]
    return process.returncode, said[0] if said else errors[-300:], "the run ends"


def read_only(lab: Lab) -> Outcome:
    with small_disk(lab.workdir, "50m"):
        remount(lab.workdir, "ro")
        status, line = lab.run()
        remount(lab.workdir, "rw")
        return status, line, again(lab)


def lose_image(change: Callable[[Path], None]) -> Callable[[Lab], Outcome]:
    def inject(lab: Lab) -> Outcome:
        flags = (lab.copy_images(), "--cache_features=off", "--finetune_epochs=200")
        process = lab.start(*flags, "--patience=200")
        lab.wait_for("run/checkpoints/finetune-00002.npz", process)
        change(lab.folder / "images" / "a" / "3.png")
        status, line = lab.end(process)
        return status, line, again(lab, *flags, "--patience=200")

    return inject


def kill_with(number: signal.Signals) -> Callable[[Lab], Outcome]:
    def inject(lab: Lab) -> Outcome:
        process = lab.start("--finetune_epochs=20")
        lab.wait_for("run/checkpoints/finetune-00001.npz", process)
        process.send_signal(number)
        return *lab.end(process), again(lab, "--finetune_epochs=20")

    return inject


def second_process(lab: Lab) -> Outcome:
    process = lab.start()
    lab.wait_for("run/run.json", process)
    outcome = lab.run()
    status, _ = lab.end(process)
    return *outcome, f"the first ends with exit {status}"


def out_of_memory(lab: Lab) -> Outcome:
    process = lab.start("--image_size=4096", "--batch_size=140")  # 28 GB a batch
    resource.prlimit(process.pid, resource.RLIMIT_AS, (8_000_000_000, 8_000_000_000))
    return *lab.end(process), again(lab, "--overwrite")


def diverge(lab: Lab) -> Outcome:
    # Decay multiplies all kernels by -99 in each step.
    status, line = lab.run("--finetune_learning_rate=100", "--weight_decay=1")
    left = "the model is that of phase head"
    return status, line, left if (lab.workdir / "model.keras").exists() else "no model"


def cut(lab: Lab, pattern: str) -> None:
    """Cuts the last file that a pattern matches in half."""
    [*_, path] = sorted(lab.folder.glob(pattern))
    os.truncate(path, path.stat().st_size // 2)


def damage_finished(pattern: str, model: str) -> Callable[[Lab], Outcome]:
    """Cuts a file of a finished run, then predicts."""

    def inject(lab: Lab) -> Outcome:
        lab.run()
        cut(lab, pattern)
        outcome = lab.run("--mode=predict", f"--model={lab.workdir}/{model}")
        return *outcome, "the rest of the run stays"

    return inject


def damage_unfinished(pattern: str, phase: str) -> Callable[[Lab], Outcome]:
    """Kills a run in a phase, cuts one of its files, and resumes it."""

    def inject(lab: Lab) -> Outcome:
        process = lab.start(f"--{phase}_epochs=20")
        lab.wait_for(f"run/checkpoints/{phase}-00002.npz", process)
        process.kill()
        process.communicate()
        cut(lab, pattern)
        process = lab.start(f"--{phase}_epochs=20")
        errors = process.communicate()[1].splitlines()
        said = [line for line in errors if "damaged" in line or "Features" in line]
        return process.returncode, said[0] if said else errors[-1], "the run ends"

    return inject


def damaged_weights(lab: Lab) -> Outcome:
    content = lab.weights.read_bytes()
    broken = lab.folder / "broken.weights.h5"
    broken.write_bytes(content[: len(content) // 2])
    status, line = lab.run(f"--weights={broken}")
    return status, line, "no workdir is made"


FAULTS = {
    "disk full (tmpfs, 40 kB workdir)": full_disk_at("40k"),
    "disk full (tmpfs, 300 kB workdir)": full_disk_at("300k"),
    "disk full (tmpfs, 700 kB workdir)": full_disk_at("700k"),
    "disk full in the cache (tmpfs, 20 kB)": full_cache,
    "workdir read-only (tmpfs, ro)": read_only,
    "image deleted during training": lose_image(os.unlink),
    "image cut during training": lose_image(lambda path: os.truncate(path, 100)),
    "SIGTERM": kill_with(signal.SIGTERM),
    "SIGINT": kill_with(signal.SIGINT),
    "SIGKILL": kill_with(signal.SIGKILL),
    "a second process": second_process,
    "out of memory (prlimit, 8 GB)": out_of_memory,
    "loss is no number": diverge,
    "checkpoint cut": damage_unfinished("run/checkpoints/finetune-*.npz", "finetune"),
    "cached features cut": damage_unfinished("cache/features/*/features.npy", "head"),
    "model.keras cut, then predict": damage_finished("run/model.keras", ""),
    "SavedModel cut, then predict": damage_finished(
        "run/export/saved_model/1/saved_model.pb", "export/saved_model"
    ),
    "weights file cut": damaged_weights,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="faults that contain one of these")
    args = parser.parse_args()
    table = [["fault", "exit", "last line", "then"]]
    with tempfile.TemporaryDirectory(prefix="faults_") as temporary:
        weights = write_weights("tiny", 32, "none", Path(temporary) / "tiny.weights.h5")
        for number, (name, inject) in enumerate(FAULTS.items()):
            if args.only and not any(part in name for part in args.only):
                continue
            folder = Path(temporary) / str(number)
            folder.mkdir()
            status, line, then = inject(Lab(folder, weights))
            row = [name, str(status), line.replace(str(folder), "..."), then]
            table.append([cell.replace("|", "/") for cell in row])
            print(table[-1], flush=True)
    print(format_table(table))


if __name__ == "__main__":
    main()
