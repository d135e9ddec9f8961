"""What Ray costs and brings: sweeps and predictions with and without `--cluster`.

    python benchmarks/scale_out.py sweep --run_cpus=1
    python benchmarks/scale_out.py predict --images=3000 --run_cpus=1

`sweep` trains six runs one after the other and on a local Ray. `predict` classifies
JPEG files with ResNet50 in both ways, and decodes them alone with tf.data. Whole
commands are timed, start-up included.
"""

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import ROOT, format_table
from predict_rate import write_exports, write_photographs

from keras_ft.host.startup import import_tensorflow

_SWEEP = "head_learning_rate=1e-3|3e-3|1e-2"


def compare_sweeps(data: str, image_size: int, cluster: Sequence[str]) -> None:
    """Prints the seconds of a sweep of six runs, and how far results differ.

    Args:
        data: `--data` of the runs.
        image_size: `--image_size` of the runs.
        cluster: The flags of the cluster.
    """
    flags = [
        *("--mode=compare", f"--data={data}", f"--image_size={image_size}"),
        *("--weights=starter", "--unfreeze=none", "--head_epochs=10"),
        *(f"--sweep={_SWEEP}", "--seeds=2"),
    ]
    with tempfile.TemporaryDirectory() as name:
        seconds, losses = {}, {}
        for way, more in {"one by one": [], "on Ray": cluster}.items():
            folder = Path(name) / way.replace(" ", "_")
            # Each way computes its features itself.
            own = [f"--workdir={folder}/runs", f"--cache_dir={folder}/cache"]
            seconds[way] = _time_program([*flags, *own, *more])
            listed = json.loads((folder / "runs" / "compare.json").read_text())["runs"]
            losses[way] = [run["val"]["loss"] for run in listed]
    pairs = zip(*losses.values(), strict=True)
    print(_describe(cluster))
    _print_times(seconds, 6, "runs/min", per=60)
    print(f"largest difference of val_loss: {max(abs(a - b) for a, b in pairs):.2g}")


def compare_predictions(
    num_images: int, batch_size: int, image_size: int, cluster: Sequence[str]
) -> None:
    """Prints the seconds of predictions, and of decoding the same files alone.

    Args:
        num_images: How many JPEG files of 500 x 375 pixels are predicted.
        batch_size: `--batch_size`.
        image_size: Of the network.
        cluster: The flags of the cluster.
    """
    import_tensorflow()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_photographs(folder, num_images, (375, 500))
        listed = folder / "list"
        listed.write_text("\n".join(files))
        model, _ = write_exports(folder, image_size)
        flags = [
            *("--mode=predict", f"--model={model}", f"--data=@{listed}"),
            f"--batch_size={batch_size}",
        ]
        seconds = {"tf.data, decode only": _time_decoding(files, batch_size)}
        outputs = [folder / "here.csv", folder / "ray.csv"]
        for way, output, more in zip(
            ("one process", "on Ray"), outputs, ([], cluster), strict=True
        ):
            seconds[way] = _time_program([*flags, f"--output={output}", *more])
        is_equal = filecmp.cmp(*outputs, shallow=False)
    print(_describe(cluster))
    _print_times(seconds, num_images, "images/s")
    print(f"predictions equal byte for byte: {is_equal}")


def _time_program(flags: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def _time_decoding(files: Sequence[str], batch_size: int) -> float:
    """The seconds to read, decode and batch files with tf.data, as fast as it can."""
    import tensorflow as tf

    images = (
        tf.data.Dataset.from_tensor_slices(files)
        .map(
            lambda file: tf.io.decode_jpeg(tf.io.read_file(file), channels=3),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
    start = time.perf_counter()
    for _ in images:
        pass
    return time.perf_counter() - start


def _describe(cluster: Sequence[str]) -> str:
    return f"{' '.join(cluster)}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def _print_times(
    seconds: dict[str, float], count: int, unit: str, per: float = 1
) -> None:
    rows = [
        [way, f"{taken:.1f}", f"{per * count / taken:.1f}"]
        for way, taken in seconds.items()
    ]
    print(format_table([["way", "seconds", unit], *rows]))


def add_commands(commands: "argparse._SubParsersAction") -> None:
    """Adds `sweep` and `predict`; each sets `run`, a function of the arguments."""
    sweep = commands.add_parser("sweep", help="six runs, one by one and on Ray")
    sweep.add_argument("--data", default="builtin:digits")
    sweep.add_argument("--image_size", type=int, default=32)
    sweep.set_defaults(
        run=lambda a: compare_sweeps(a.data, a.image_size, _cluster_flags(a))
    )
    predict = commands.add_parser("predict", help="many images, here and on Ray")
    predict.add_argument("--images", type=int, default=3000)
    predict.add_argument("--batch_size", type=int, default=32)
    predict.add_argument("--image_size", type=int, default=224)
    predict.set_defaults(
        run=lambda a: compare_predictions(
            a.images, a.batch_size, a.image_size, _cluster_flags(a)
        )
    )
    for command in (sweep, predict):
        command.add_argument("--cluster", default="ray")
        command.add_argument("--run_cpus", default="auto")
        command.add_argument("--run_gpus", default="auto")


def _cluster_flags(arguments: argparse.Namespace) -> list[str]:
    names = ("cluster", "run_cpus", "run_gpus")
    return [f"--{name}={getattr(arguments, name)}" for name in names]
