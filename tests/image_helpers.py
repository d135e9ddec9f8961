"""Image files of every kind, which several tests decode."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image, kind, **options):
    """Encodes an image as a file of a kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful():
    """Makes an image of all hues."""
    y, x = np.mgrid[:32, :32] * 8
    return Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8))


RGB = colourful()
DEEP = Image.fromarray((np.mgrid[:32, :32][1] * 2000).astype(np.uint16))
FILES = {
    "jpeg": (encode(RGB, "jpeg", quality=95), RGB, 9),
    "jpeg grey": (encode(RGB.convert("L"), "jpeg"), RGB.convert("L"), 4),
    "jpeg cmyk": (encode(RGB.convert("CMYK"), "jpeg", quality=95), RGB, 4),
    "png": (encode(RGB, "png"), RGB, 0),
    "png grey": (encode(RGB.convert("L"), "png"), RGB.convert("L"), 0),
    "png palette": (encode(RGB.quantize(64), "png"), RGB.quantize(64), 0),
    "png alpha": (encode(RGB.convert("RGBA"), "png"), RGB, 0),
    "png 16 bit": (encode(DEEP, "png"), Image.fromarray(np.asarray(DEEP) // 256), 0),
    "bmp": (encode(RGB, "bmp"), RGB, 0),
    "bmp grey": (encode(RGB.convert("L"), "bmp"), RGB.convert("L"), 0),
    "bmp palette": (encode(RGB.quantize(64), "bmp"), RGB.quantize(64), 0),
    "gif": (encode(RGB.quantize(64), "gif"), RGB.quantize(64), 0),
    "gif animated": (
        encode(
            RGB.quantize(64),
            "gif",
            save_all=True,
            append_images=[RGB.rotate(90).quantize(64)],
        ),
        RGB.quantize(64),
        0,
    ),
    "webp": (encode(RGB, "webp", lossless=True), RGB, 0),
    "webp alpha": (encode(RGB.convert("RGBA"), "webp", lossless=True), RGB, 0),
    "webp extended": (encode(RGB, "webp", lossless=True, exif=b"Exif\0\0"), RGB, 0),
}


def translucent(shape=(24, 32)):
    """Makes an image of random colours, with every alpha from 0 to 255."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
    pixels[0, :2, 3] = 0, 255
    return Image.fromarray(pixels)


def make_png(pixels, depth, colour, *chunks):
    """Makes a PNG file that Pillow can't write.

    Args:
        pixels: int [H, W] or [H, W, C].
        depth: Bits per number.
        colour: Colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        chunks: Kind and content of others.
    """

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    bits = np.unpackbits(pixels.astype(">u2")[..., None].view(np.uint8), axis=-1)
    rows = bits[..., -depth:].reshape(len(pixels), -1)
    body = b"".join(b"\0" + row.tobytes() for row in np.packbits(rows, axis=-1))
    header = struct.pack(
        ">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0
    )
    parts = [
        chunk(b"IHDR", header),
        *(chunk(*one) for one in chunks),
        chunk(b"IDAT", zlib.compress(body)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


RGBA = translucent()
OPAQUE = RGBA.convert("RGB")
GREY = RGBA.convert("L")
PALETTE = RGB.quantize(16)
FRAMES = {"save_all": True, "append_images": [RGBA.rotate(180)]}
TRANSPARENT = {
    "png rgba": encode(RGBA, "png"),
    "png grey and alpha": encode(RGBA.convert("LA"), "png"),
    "png palette": encode(PALETTE, "png", transparency=bytes(range(0, 256, 17))),
    "png palette, one colour": encode(PALETTE, "png", transparency=3),
    "png rgb, one colour": encode(OPAQUE, "png", transparency=OPAQUE.getpixel((3, 4))),
    "png grey, one shade": encode(GREY, "png", transparency=GREY.getpixel((3, 4))),
    "png 16 bits": make_png(np.asarray(RGBA, np.uint16) * 257, 16, 6),
    "webp lossless": encode(RGBA, "webp", lossless=True, exact=True),
    "webp lossy": encode(RGBA, "webp", quality=90),
    "webp extended": encode(RGBA, "webp", lossless=True, exif=b"Exif\0\0"),
    "webp animated": encode(RGBA, "webp", lossless=True, **FRAMES),
}


def damaged_jpegs():
    """JPEG files of noise that are decoded, and how what libjpeg says of them ends."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = encode(Image.fromarray(noise), "jpeg")
    end = b"\xff\xd9"
    return {
        file[:-2] + bytes(9) + end: " extraneous bytes before marker 0xd9",
        file[:-300] + end: "premature end of data segment",
    }
