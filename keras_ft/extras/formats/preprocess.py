"""Decodes and resizes images as in training, with Pillow and NumPy alone.

For exports that take pixels instead of image files, such as LiteRT and ONNX. Copy this
file to where the model runs; it needs `pip install pillow numpy` and no other module.

    settings = load_settings("preprocessing.json")
    image = preprocess(open("photo.jpg", "rb").read(), settings)

or, to write the pixels of one file:

    python preprocess.py preprocessing.json photo.jpg pixels.npy

Pixels equal those of training, which TensorFlow decodes and resizes, within one grey
level, if Pillow has libjpeg-turbo, as its wheels have.
"""

import io
import json
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageChops

# What `preprocess` does, in the words of preprocessing.json; it can't do otherwise.
STEPS: dict[str, Any] = {
    "format_version": 2,
    "formats": ["JPEG", "PNG", "BMP", "GIF", "WebP"],
    "frame": "first",
    "exif_orientation": "applied to JPEG, PNG and WebP",
    "alpha": "PNG and WebP composited on white, GIF on black, BMP ignored",
    "interpolation": "bilinear",
    "antialias": True,
    "padding_value": 127.5,
    "channel_order": "RGB",
    "layout": "HWC",
    "value_range": [0, 255],
    "dtype": "float32",
}


class Settings(NamedTuple):
    """What differs from model to model."""

    height: int  # of the network's images, in pixels
    width: int
    # How images get this size: `stretch`, `crop` (centre, keeps the aspect ratio) or
    # `pad` (grey margins, keeps it too).
    resize: str


def load_settings(path: str) -> Settings:
    """Reads preprocessing.json; ValueError if `preprocess` can't do what it says."""
    with open(path, encoding="utf-8") as stream:
        content = json.load(stream)
    settings = Settings(*(content.pop(name) for name in Settings._fields))
    if content != STEPS or settings.resize not in ("stretch", "crop", "pad"):
        raise ValueError(f"{path} must be of the version of this file: copy both.")
    return settings


def preprocess(content: bytes, settings: Settings) -> np.ndarray:
    """Decodes and resizes a JPEG, PNG, BMP, GIF or WebP file.

    Returns:
        float32 [H, W, 3] in [0, 255], RGB.

    Raises:
        Exception: The bytes are no such file; which one depends on Pillow.
    """
    return resize(decode(content), settings)


def decode(content: bytes) -> np.ndarray:
    """Decodes one image as a viewer shows it: uint8 [H, W, 3], RGB."""
    image: Any = Image.open(io.BytesIO(content), formats=STEPS["formats"])
    kind = content[:2]
    if kind == b"\xff\xd8":
        return _turn_upright(_to_rgb(image), image)
    if kind == b"GI":
        return _decode_gif(image)
    if kind == b"BM":
        return np.asarray(image.convert("RGB"))
    pixels = _composite_on_white(image, depth=content[24])  # of a PNG
    return _turn_upright(pixels, image)


def _to_rgb(jpeg: Any) -> np.ndarray:
    """The pixels of a JPEG; grey and CMYK are converted."""
    if jpeg.mode == "CMYK" and "adobe" not in jpeg.info:
        # Pillow inverts all CMYK files, but only Adobe's are inverted.
        jpeg = ImageChops.invert(jpeg)
    return np.asarray(jpeg.convert("RGB"))


def _turn_upright(pixels: np.ndarray, image: Any) -> np.ndarray:
    """Rotates and mirrors the pixels of an image by its EXIF orientation."""
    orientation = _read_orientation(image)
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _read_orientation(image: Any) -> int:
    """Reads EXIF tag 0x0112 of IFD0; 1, upright, if it is missing or not valid.

    Pillow's `getexif` also takes the orientation from XMP, which training does not.
    """
    tiff = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order: Any = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    if order is None:
        return 1

    def read(position: int, size: int) -> int:
        return int.from_bytes(tiff[position : position + size], order)

    start = read(4, 4)
    end = start + 2 + 12 * read(start, 2)
    for entry in range(start + 2, end if end <= len(tiff) else 0, 12):
        size = {3: 2, 4: 4}.get(read(entry + 2, 2))  # SHORT or LONG
        if read(entry, 2) == 0x0112 and size and read(entry + 4, 4) == 1:
            value = read(entry + 8, size)
            return value if value in range(1, 9) else 1
    return 1


def _decode_gif(image: Any) -> np.ndarray:
    """The first frame, cropped to its own size, on black."""
    left, top, right, bottom = image.tile[0][1]
    pixels = np.asarray(image.convert("RGBA"))
    frame = pixels[top:bottom, left:right]
    shown = frame[: max(0, bottom - 2 * top), : max(0, right - 2 * left)]
    canvas = np.zeros((*frame.shape[:2], 3), np.uint8)
    # TensorFlow counts the offset from the corner of the frame.
    canvas[top:, left:] = shown[..., :3] * (shown[..., 3:] > 0)
    return canvas


def _composite_on_white(image: Any, depth: int) -> np.ndarray:
    """Composites a PNG with `depth` bits per channel, or a WebP, on white."""
    key = image.info.get("transparency")
    if image.mode == "I;16":
        deep = np.asarray(image)[..., None]
        colour = np.repeat(np.uint8(deep >> 8), 3, axis=-1)
        alpha = np.uint8(255) * (deep != (-1 if key is None else key))
    elif image.mode in ("RGBA", "LA") or key is not None:
        # Pillow scales the pixels of other depths to 8 bits, but not this colour.
        if image.mode == "L":
            image.info["transparency"] = key * 255 // (2**depth - 1)
        elif image.mode == "RGB" and depth == 16:
            image.info["transparency"] = tuple(part >> 8 for part in key)
        pixels = np.asarray(image.convert("RGBA"))
        colour, alpha = pixels[..., :3], pixels[..., 3:]
    else:
        return np.asarray(image.convert("RGB"))
    opacity = alpha.astype(np.float32) / 255
    return (255.5 + (colour.astype(np.float32) - 255) * opacity).astype(np.uint8)


def resize(pixels: np.ndarray, settings: Settings) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to the network's size: float32 in [0, 255]."""
    shape = pixels.shape[:2]
    size = settings.height, settings.width
    if settings.resize == "stretch":
        return _stretch(pixels, size)
    if settings.resize == "crop":
        (top, left), (height, width) = _fit(size, shape)
        return _stretch(pixels[top : top + height, left : left + width], size)
    (top, left), (height, width) = _fit(shape, size)
    padded = np.full((*size, 3), STEPS["padding_value"], np.float32)
    padded[top : top + height, left : left + width] = _stretch(pixels, (height, width))
    return padded


def _stretch(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes, bilinear with antialiasing."""
    # Of single channels of floating-point numbers, Pillow rounds nothing.
    channels = [
        Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR)
        for channel in np.moveaxis(pixels, -1, 0).astype(np.float32)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _fit(
    shape: tuple[int, int], area: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The start and the size of the largest part of an area with a shape's ratio."""
    inner, outer = np.array([shape, area], np.float32)
    part = np.maximum(np.round(inner * np.min(outer / inner)), 1)
    start = np.floor((outer - part) / 2)
    (top, left), (height, width) = start.astype(int).tolist(), part.astype(int).tolist()
    return (top, left), (height, width)


if __name__ == "__main__":
    settings_file, image_file, output_file = sys.argv[1:]
    with open(image_file, "rb") as image_stream:
        image = preprocess(image_stream.read(), load_settings(settings_file))
    np.save(output_file, image)
