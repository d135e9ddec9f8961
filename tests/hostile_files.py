"""Small image files that take much work, for the tests and the load test."""

import io
import struct
import zlib

from PIL import Image, ImageFile


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def make_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def make_bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = make_chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header) + data


def make_texts(count: int, size: int) -> bytes:
    """A PNG with texts that are compressed, each of some bytes."""
    text = make_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(size)))
    png = encode(Image.new("RGB", (16, 16)), "png")
    return png[:-12] + count * text + png[-12:]


def make_scans(side: int, count: int) -> bytes:
    """A progressive JPEG with further scans, without data, over all of its pixels."""
    image = Image.new("L", (side, side))
    before, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, 2**26
    jpeg = encode(image, "jpeg", progressive=True)
    ImageFile.MAXBLOCK = before
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + count * scan + jpeg[-2:]


def make_frames(side: int, count: int) -> bytes:
    """A GIF of equal frames."""
    gif = encode(Image.new("P", (side, side)), "gif")
    start = gif.index(b"\x2c\0\0\0\0")
    return gif[:start] + count * gif[start:-1] + b";"


def make_blocks(count: int) -> bytes:
    """A GIF whose comment has blocks of one byte."""
    gif = encode(Image.new("L", (16, 16)), "gif")
    start = gif.index(b"\x2c\0\0\0\0")
    return gif[:start] + b"\x21\xfe" + count * b"\1a" + b"\0" + gif[start:]


def make_many_tags(count: int) -> bytes:
    """A TIFF whose directory has many entries, each of another tag."""
    entries = [struct.pack("<HHII", i, 3, 1, 1) for i in range(count)]
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries) + bytes(4)
