"""The processes that read what clients send, see `reader.py`."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

from starlette.exceptions import HTTPException

from keras_ft.errors import UserError
from keras_ft.extras.server.bodies import Body
from keras_ft.extras.server.reader import OUT_OF_MEMORY, do
from keras_ft.serving.encoded import Encoded

log = logging.getLogger("keras_ft")

MAX_MEGABYTES = 1024  # of each process
# Of processor time, by task.
SECONDS = {"request": 2.0, "image": 2.0, "convert": 10.0}
# Smaller bodies are read in this process, which takes half the time: the headers of so
# few bytes can't take long.
_MAX_BYTES_HERE = 256 * 2**10
# Two more processes than convert images at a time: conversions delay no other request.
_MAX_CONVERTING = max(1, min(8, (os.cpu_count() or 1) // 2))
_MAX_READING = _MAX_CONVERTING + 2


class Readers:
    """Reads requests in processes, which are replaced when a file ends them."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[Process] = asyncio.Queue()
        self._converting = asyncio.Semaphore(_MAX_CONVERTING)
        self._processes: set[Process] = set()
        self._replacing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In this block requests are read."""
        try:
            for _ in range(_MAX_READING):
                await self._start()
            yield
        finally:
            for task in self._replacing:
                task.cancel()
            for process in self._processes:
                _kill(process)
            await asyncio.gather(*(process.wait() for process in self._processes))

    async def read(self, task: str, body: Body) -> tuple[list[Encoded], bool]:
        """Reads a body, which is a `request`, or one `image`.

        Returns:
            The images, and whether the answer has a row for each.

        Raises:
            HTTPException: The body is wrong, or more work than it may be.
        """
        images, in_rows = await self._ask(task, body.content, "The body")
        for i, image in enumerate(images):
            if image.is_foreign:
                async with self._converting:
                    name = f"Image {i}"
                    [images[i]], _ = await self._ask("convert", image.content, name)
                body.hold(len(images[i].content))
        return images, in_rows

    async def _ask(
        self, task: str, content: bytes | bytearray, subject: str
    ) -> tuple[list[Encoded], bool]:
        """Lets a process do a task; errors name the subject."""
        if task != "convert" and len(content) <= _MAX_BYTES_HERE:
            return await _do_here(task, bytes(content))
        while (process := await self._free.get()).returncode is not None:
            self._replace(process)  # something else has ended it
        is_usable = False
        try:
            reply, images = await _exchange(process, task, content)
            is_usable = True
        except (ConnectionError, EOFError) as error:
            reason = _explain(await process.wait(), task)
            raise HTTPException(400, f"{subject}: {reason}") from error
        finally:  # also if the request is given up
            if is_usable:
                self._free.put_nowait(process)
            else:
                self._replace(process)
        if "error" in reply:
            name = f"{subject}: " if task == "convert" else ""
            raise HTTPException(400, f"{name}{reply['error']}")
        return images, reply["in_rows"]

    async def _start(self) -> None:
        # It can import what this process can.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "keras_ft.extras.server.reader"),
            *(str(os.getpid()), str(MAX_MEGABYTES)),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._processes.add(process)
        self._free.put_nowait(process)

    def _replace(self, process: Process) -> None:
        async def replace() -> None:
            _kill(process)
            await process.wait()
            self._processes.remove(process)
            await self._start()

        task = asyncio.create_task(replace())
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)


async def _do_here(task: str, content: bytes) -> tuple[list[Encoded], bool]:
    try:
        return await asyncio.to_thread(do, task, content)
    except UserError as error:
        raise HTTPException(400, str(error)) from error


async def _exchange(
    process: Process, task: str, content: bytes | bytearray
) -> tuple[dict[str, Any], list[Encoded]]:
    """Sends a task and receives the reply; EOFError if the process ends."""
    tasks, replies = process.stdin, process.stdout
    if not tasks or not replies:
        raise EOFError
    tasks.write(f"{task} {len(content)} {SECONDS[task]}\n".encode())
    tasks.write(content)
    await tasks.drain()
    reply = json.loads(await replies.readuntil())
    images = [
        Encoded(await replies.readexactly(size), "", num_pixels, is_foreign)
        for size, num_pixels, is_foreign in reply.get("images", [])
    ]
    return reply, images


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _explain(status: int, task: str) -> str:
    """Says why a process has ended."""
    if status == -signal.SIGPROF:
        return f"reading it takes more than {SECONDS[task]:g} s of processor time"
    if status == OUT_OF_MEMORY:
        return f"reading it takes more than {MAX_MEGABYTES} MB of memory"
    log.warning("A process that reads requests has ended with status %d.", status)
    return "it can't be read"
