"""A process that reads what clients send: JSON, headers of images, foreign formats.

    python -m keras_ft.extras.server.reader PROCESS_ID_OF_THE_SERVER MEGABYTES NICENESS

Its memory and processor time are limited: when a file takes more, or makes a library
crash, this process ends, and the server goes on. Tasks come from standard input, and
replies go to standard output; `readers.py` has the other end.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from keras_ft.errors import UserError
from keras_ft.extras.server.lighten import lighten
from keras_ft.extras.server.parse import parse_request
from keras_ft.host import signals
from keras_ft.serving.encoded import Encoded, inspect_image, read_image

# Of the images of a request together, and of an image that is converted.
MAX_PIXELS = 250_000_000
MAX_FOREIGN_PIXELS = 50_000_000
OUT_OF_MEMORY = 9  # the exit status


def main() -> None:
    """Does one task after the other, as long as the server runs."""
    signals.end_with_parent(int(sys.argv[1]), signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # the server gets them, too
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    os.nice(int(sys.argv[3]))
    memory = int(sys.argv[2]) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with os.fdopen(0, "rb") as tasks:
        while header := tasks.readline().split():
            task, size, seconds = header
            content = tasks.read(int(size))
            signal.setitimer(signal.ITIMER_PROF, float(seconds))  # ends this process
            reply, images = _reply(task.decode(), content)
            signal.setitimer(signal.ITIMER_PROF, 0)
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.writelines(images)
            replies.flush()


def _reply(task: str, content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The reply: an error, or facts about images, which follow it."""
    try:
        images, in_rows = do(task, content)
    except UserError as error:
        return {"error": str(error)}, []
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    facts = [(len(i.content), i.num_pixels, i.is_foreign) for i in images]
    return {"images": facts, "in_rows": in_rows}, [image.content for image in images]


def do(task: str, content: bytes) -> tuple[list[Encoded], bool]:
    """Reads a `request` or one `image`, or does `convert` an image.

    Returns:
        The images, and whether the answer has a row for each.

    Raises:
        UserError: The request or an image can't be read, or has too many pixels.
    """
    if task == "convert":
        image = read_image(content)
        if image.error:
            raise UserError(image.error)
        return [image], True
    files, in_rows = parse_request(content) if task == "request" else ([content], True)
    images = [_read(file, f"Image {i}: ") for i, file in enumerate(files)]
    if sum(image.num_pixels for image in images) > MAX_PIXELS:
        raise UserError(
            f"The images of a request may have at most {MAX_PIXELS} pixels together; "
            "send fewer images"
        )
    return images, in_rows


def _read(content: bytes, name: str) -> Encoded:
    image = inspect_image(content)
    if image.error:
        raise UserError(f"{name}{image.error}")
    if image.is_foreign and image.num_pixels > MAX_FOREIGN_PIXELS:
        raise UserError(
            f"{name}an image that is converted, such as TIFF, may have at most "
            f"{MAX_FOREIGN_PIXELS} pixels; send it as JPEG or PNG"
        )
    try:
        return image._replace(content=lighten(content, image.num_pixels))
    except UserError as error:
        raise UserError(f"{name}{error}") from error


if __name__ == "__main__":
    main()
