"""Time and memory before training starts, against the number of images.

Writes tiny PNG files, lists them as a folder and as a CSV, reads their headers and puts
them into splits, each in a process of its own; then all of it once more.

    python benchmarks/scale.py --images 20000 200000
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measure import format_table

from keras_ft.config.schema import DataConfig
from keras_ft.data import dataset as data

CLASSES = 10
# A 1 x 1 pixel PNG; what follows its end makes the files differ.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944"
    "4154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


def write_files(folder: Path, count: int) -> None:
    """Class folders of `count` images in all, and a table of them."""
    rows = ["path,label"]
    for label in range(CLASSES):
        (folder / "images" / f"class_{label}").mkdir(parents=True)
    for i in range(count):
        path = f"images/class_{i % CLASSES}/{i:07}.png"
        (folder / path).write_bytes(PNG + str(i).encode())
        rows.append(f"{path},class_{i % CLASSES}")
    (folder / "table.csv").write_text("\n".join(rows))


def measure(path: str, cache_dir: str) -> dict[str, float]:
    """Seconds and memory of what training does before it imports TensorFlow."""
    config = DataConfig(data=path, cache_dir=cache_dir)
    start = time.perf_counter()
    source = data.load_dataset(config)
    loaded = time.perf_counter()
    splits = data.make_splits(source, config, seed=0)
    return {
        "images": len(splits),
        "load": loaded - start,
        "split": time.perf_counter() - loaded,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_apart(path: Path, cache_dir: Path) -> dict[str, float]:
    """`measure` in a process of its own, for its peak of memory."""
    command = [sys.executable, __file__, "--measure", str(path), str(cache_dir)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--workdir", type=Path, default=Path("runs/scale"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    table = [["images", "as", "run", "list, headers: s", "splits: s", "peak: MB"]]
    for count in args.images:
        folder = args.workdir / str(count)
        write_files(folder, count)
        for kind in ("images", "table.csv"):
            for run in ("first", "second"):
                found = measure_apart(folder / kind, folder / f"cache-{kind}")
                cells = (found["load"], found["split"], found["peak"])
                row = [f"{found['images']:,}", kind, run, *(f"{c:.1f}" for c in cells)]
                table.append(row)
        shutil.rmtree(folder)
    print(format_table(table))


if __name__ == "__main__":
    main()
