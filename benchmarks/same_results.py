"""Shows that a change leaves results as they are, bit for bit.

Runs the same commands in two checkouts and compares what they leave: weights,
history.csv, metrics.json without times, and the SavedModel's answers.

    git worktree add /tmp/before COMMIT
    python benchmarks/same_results.py /tmp/before .

Results of a checkout are kept in --keep, so that it need not be run again.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# What differs between equal runs: durations, rates, and the size of a SavedModel, whose
# graph is not the same byte for byte.
VARYING = (
    *("seconds", "milliseconds", "bytes"),
    *("images_per_second", "inference_images_per_second", "files_per_second"),
)
SMALL = ["--image_size=64", "--head_epochs=3", "--finetune_epochs=2"]
RUNS = {
    "two_phases": ["--data=builtin:faces", "--weights=imagenet,starter", *SMALL],
    "from_conv5": [
        "--data=builtin:faces",
        "--weights=starter",
        "--unfreeze=from:conv5",
        "--augment=light",
        "--feature_views=2",
        *SMALL,
    ],
    "imbalanced": [
        "--data={folder}/imbalanced.csv",
        "--weights=starter",
        "--unfreeze=from:conv5",
        "--imbalance=class_weights",
        *SMALL,
    ],
    "resumed": ["--data=builtin:faces", "--weights=starter", *SMALL],
}
# Answers of the newest SavedModel to the images of a CSV file.
ANSWER = """
import hashlib, sys
from pathlib import Path
import numpy as np, tensorflow as tf
workdir, cache = sys.argv[1:]
model = tf.saved_model.load(f"{workdir}/export/saved_model/1")
serve = model.signatures["serving_default"]
files = [f for f in sorted((Path(cache) / "builtin").glob("*/*")) if f.suffix == ""]
files = files[:40]
answers = serve(image_bytes=tf.constant([f.read_bytes() for f in files]))
digest = hashlib.sha256()
for name in sorted(answers):
    digest.update(repr(np.asarray(answers[name]).tolist()).encode())
print(len(files), digest.hexdigest())
"""


def write_imbalanced(folder: Path) -> None:
    """Writes a CSV file: all faces, every fifth of the other images."""
    numbers = [*range(100), *range(100, 200, 5)]
    rows = [f"builtin:faces/{i},{'face' if i < 100 else 'other'}" for i in numbers]
    (folder / "imbalanced.csv").write_text("\n".join(["path,label", *rows, ""]))


def run(checkout: Path, name: str, folder: Path) -> None:
    """Runs one command; `resumed` is stopped in phase finetune and run again."""
    flags = [flag.format(folder=folder) for flag in RUNS[name]]
    flags += [f"--workdir={folder / name}", f"--cache_dir={folder / 'cache'}"]
    command = [sys.executable, "run.py", *flags, "--deterministic"]
    history = folder / name / "history.csv"
    if name == "resumed":
        process = subprocess.Popen(command, cwd=checkout)
        while "finetune,1" not in (history.read_text() if history.exists() else ""):
            if process.poll() is not None:
                raise RuntimeError("The run ended before it was stopped.")
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait()
    subprocess.run(command, cwd=checkout, check=True)


def fingerprint(workdir: Path, cache: Path) -> dict[str, Any]:
    """A finished run's results that do not depend on the clock."""
    with open(workdir / "history.csv", newline="") as stream:
        history = [{**row, "seconds": 0} for row in csv.DictReader(stream)]
    command = [sys.executable, "-c", ANSWER, str(workdir), str(cache)]
    answers = subprocess.run(command, check=True, capture_output=True, text=True)
    return {
        "weights": hash_weights(workdir / "model.keras"),
        "history": history,
        "metrics": without_varying(json.loads((workdir / "metrics.json").read_text())),
        "splits": (workdir / "splits.csv").read_text(),
        "answers": answers.stdout.splitlines()[-1],
    }


def hash_weights(path: Path) -> str:
    """Hash of all weights in a model.keras, by name."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))

    def add(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            digest.update(name.encode() + np.asarray(node).tobytes())

    with h5py.File(content) as weights:
        weights.visititems(add)
    return digest.hexdigest()


def without_varying(content: Any) -> Any:
    """JSON values without those that differ between equal runs."""
    if not isinstance(content, dict):
        return content
    return {k: without_varying(v) for k, v in content.items() if k not in VARYING}


def results(checkout: Path, names: list[str], keep: Path | None) -> dict[str, Any]:
    """Results of a checkout's runs by name: those kept, or new ones."""
    if keep and keep.exists():
        return json.loads(keep.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_imbalanced(folder)
        found = {}
        for name in names:
            run(checkout, name, folder)
            found[name] = fingerprint(folder / name, folder / "cache")
    if keep:
        keep.write_text(json.dumps(found))
    return found


def list_differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """What differs between two JSON values, a line each."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(k, before.get(k), after.get(k)) for k in {**before, **after}]
    elif isinstance(before, list) and isinstance(after, list):
        both = itertools.zip_longest(before, after)
        pairs = [(i, one, other) for i, (one, other) in enumerate(both)]
    else:
        if before != after:
            yield f"{place}: {before} -> {after}"
        return
    for key, one, other in pairs:
        yield from list_differences(one, other, f"{place}/{key}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--keep", type=Path, help="JSON file: results of BEFORE")
    parser.add_argument("--show", type=int, default=20, help="differences to list")
    args = parser.parse_args()
    before = results(args.before, args.runs, args.keep)
    after = results(args.after, args.runs, None)
    different = 0
    for name in args.runs:
        for part, value in before[name].items():
            same = json.loads(json.dumps(after[name][part])) == value
            different += not same
            print(f"{name:12} {part:10} {'identical' if same else 'DIFFERENT'}")
            found = json.loads(json.dumps(after[name][part]))
            for line in itertools.islice(list_differences(value, found), args.show):
                print(f"  {line}")
    return different


if __name__ == "__main__":
    sys.exit(main())
