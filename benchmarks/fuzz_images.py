"""Mutated images through check, train and predict: no crash, every bad file reported.

Writes files of all formats, changes, cuts and mixes their bytes, and runs the program
on them. A file must either be used by all three or be reported by all three.

    python benchmarks/fuzz_images.py --files=2000
"""

import argparse
import csv
import io
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = ("ant", "bee")
BAD = {"missing_file", "empty_file", "not_an_image", "too_large", "unreadable"}


def make_seeds(rng: np.random.Generator, photographs: list[Path]) -> list[bytes]:
    """Whole files of all formats and many kinds, to be mutated."""
    seeds = [path.read_bytes() for path in photographs]
    coarse = rng.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    exif = Image.Exif()
    exif[274] = 6
    kinds = [
        (image.convert("RGB"), "jpeg", {"exif": exif}),
        (image.convert("RGB"), "jpeg", {"progressive": True}),
        (image.convert("L"), "jpeg", {}),
        (image.convert("CMYK"), "jpeg", {}),
        (image, "png", {}),
        (image.convert("P"), "png", {"transparency": 3}),
        (image.convert("I;16"), "png", {}),
        (image.convert("RGB"), "bmp", {}),
        (image.convert("P"), "bmp", {}),
        (image.convert("P"), "gif", {}),
        (image.convert("P"), "gif", frames),
        (image, "webp", {}),
        (image.convert("RGB"), "webp", {"lossless": True}),
        (image, "webp", frames),
    ]
    for picture, kind, options in kinds:
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        seeds.append(stream.getvalue())
    return seeds


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to four changes: bytes, numbers, cuts, repeats, parts of other files."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        # Half of the changes hit the head, where the structure is.
        end = len(data) if rng.random() < 0.5 else min(len(data), 200)
        at = rng.randrange(max(end, 1))
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            for i in range(at, min(at + rng.randint(1, 30), len(data))):
                data[i] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.randint(1, 100)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randint(1, 100)]
        elif kind == 5:
            number = rng.choice(
                [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1]
            )
            data[at : at + 4] = number.to_bytes(4, rng.choice(["big", "little"]))
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at : at + 50] = other[start : start + 50]
    return bytes(data)


def run(*flags: str) -> None:
    """Runs the program, which must end well."""
    done = subprocess.run(
        [sys.executable, "run.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"{flags} ended with {done.returncode}: {done.stderr[-3000:]}"
        )


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--photographs", type=Path, help="folder of real ones, as seeds"
    )
    args = parser.parse_args()
    photographs = []
    if args.photographs:
        photographs = sorted(args.photographs.rglob("*.jpg"))[:20]
    rng = random.Random(args.seed)
    seeds = make_seeds(np.random.default_rng(args.seed), photographs)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as temporary:
        folder = Path(temporary)
        for name in CLASSES:
            (folder / "images" / name).mkdir(parents=True)
        for i in range(args.files):
            content = mutate(rng.choice(seeds), rng, seeds)
            (folder / "images" / CLASSES[i % 2] / f"{i}.jpg").write_bytes(content)
        data, cache = f"--data={folder}/images", f"--cache_dir={folder}/cache"
        tiny = ("--backbone=tiny", "--weights=none", "--image_size=32")
        seconds = {}
        for name, flags in {
            "check": ("--mode=check", data, cache, f"--output={folder}/audit.csv"),
            "train": (*tiny, data, cache, f"--workdir={folder}/run"),
            "predict": (
                *("--mode=predict", data, f"--model={folder}/run"),
                f"--output={folder}/answers.csv",
            ),
        }.items():
            start = time.perf_counter()
            run(*flags)
            seconds[name] = time.perf_counter() - start
        found = {
            "check": {
                r["path"] for r in read(folder / "audit.csv") if r["finding"] in BAD
            },
            "train": {
                r["path"]
                for r in read(folder / "run" / "splits.csv")
                if r["split"] == "skipped"
            },
            "predict": {r["path"] for r in read(folder / "answers.csv") if r["error"]},
        }
    for name, bad in found.items():
        print(f"{name}: {len(bad)} of {args.files} bad, {seconds[name]:.0f} s")
    differ = found["check"] ^ found["predict"] | found["check"] ^ found["train"]
    print(f"Reported by one and not by the others: {len(differ)}", *sorted(differ)[:5])
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
