"""Makes keras_ft/clothes/images.zip from photographs in FOLDER/SPLIT/CLASS/*.jpg.

    python tools/make_clothes.py FOLDER

FOLDER is a copy of https://github.com/alexeygrigorev/clothing-dataset-small. Each
photograph is scaled to 96 pixels on its short side and stored as WebP. The same
versions of Pillow and libwebp give the same bytes.
"""

import argparse
import io
import pathlib
import zipfile

from PIL import Image, ImageOps

OUTPUT = pathlib.Path(__file__).parents[1] / "keras_ft" / "clothes" / "images.zip"
SHORT_SIDE = 96
QUALITY = 80


def encode(file: pathlib.Path) -> bytes:
    """Returns a photograph, upright and scaled down, as a WebP file."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    scale = SHORT_SIDE / min(upright.size)
    size = [round(side * scale) for side in upright.size]
    stream = io.BytesIO()
    scaled = upright.resize(size, Image.Resampling.LANCZOS)
    scaled.save(stream, "webp", quality=QUALITY, method=6)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    with zipfile.ZipFile(OUTPUT, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.glob("*/*/*.jpg")):
            name = file.relative_to(folder).with_suffix(".webp").as_posix()
            # A fixed date, or the same images would give other bytes.
            archive.writestr(zipfile.ZipInfo(name), encode(file))
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
