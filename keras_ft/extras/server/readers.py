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
from keras_ft.extras.server.bodies import Body, busy
from keras_ft.extras.server.reader import OUT_OF_MEMORY, do
from keras_ft.serving.encoded import Encoded

log = logging.getLogger("keras_ft")

MAX_MEGABYTES = 1024  # of each process
# Of processor time, by task.
SECONDS = {"request": 2.0, "image": 2.0, "convert": 10.0}
# Smaller bodies are read in this process, which takes half the time: the headers of so
# few bytes can't take long.
_MAX_BYTES_HERE = 256 * 2**10
# Conversions have processes of their own, and delay no other request.
_MAX_CONVERTING = max(1, min(8, (os.cpu_count() or 1) // 2))
_MAX_READING = _MAX_CONVERTING + 1
# The server goes first where both need the processor.
_CONVERTING_NICENESS = 10
_SECONDS_TO_RETRY = 1.0


class Readers:
    """Reads requests in processes, which are replaced when a file ends them."""

    def __init__(self) -> None:
        self._reading = _Pool(_MAX_READING, niceness=0)
        self._converting = _Pool(_MAX_CONVERTING, _CONVERTING_NICENESS)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In this block requests are read."""
        async with self._reading.running(), self._converting.running():
            yield

    async def read(self, task: str, body: Body) -> tuple[list[Encoded], bool]:
        """Reads a body, which is a `request`, or one `image`.

        Returns:
            The images, and whether the answer has a row for each.

        Raises:
            HTTPException: The body is wrong, or more work than it may be.
        """
        if len(body.content) <= _MAX_BYTES_HERE:
            images, in_rows = await _do_here(task, bytes(body.content))
        else:
            images, in_rows = await self._reading.ask(task, body.content, "The body")
        for i, image in enumerate(images):
            if image.is_foreign:
                name = f"Image {i}"
                converted = await self._converting.ask("convert", image.content, name)
                [images[i]], _ = converted
                body.hold(len(images[i].content))
        return images, in_rows


class _Pool:
    """Some processes that do one task each at a time."""

    def __init__(self, size: int, niceness: int):
        self.processes: set[Process] = set()
        self._size = size
        self._niceness = niceness
        self._free: asyncio.Queue[Process] = asyncio.Queue()
        self._replacing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            for _ in range(self._size):
                await self._start()
            yield
        finally:
            for task in self._replacing:
                task.cancel()
            for process in self.processes:
                _kill(process)
            await asyncio.gather(*(process.wait() for process in self.processes))

    async def ask(
        self, task: str, content: bytes | bytearray, subject: str
    ) -> tuple[list[Encoded], bool]:
        """Lets a process do a task; errors name the subject."""
        while (process := await self._free.get()).returncode is not None:
            self._replace(process)  # something else has ended it
        is_usable = False
        try:
            reply, images = await _exchange(process, task, content)
            is_usable = True
        except (ConnectionError, EOFError) as error:
            raise _explain(await process.wait(), task, subject) from error
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
            *(str(os.getpid()), str(MAX_MEGABYTES), str(self._niceness)),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.processes.add(process)
        self._free.put_nowait(process)

    def _replace(self, process: Process) -> None:
        async def replace() -> None:
            _kill(process)
            await process.wait()
            self.processes.remove(process)
            while True:
                try:
                    return await self._start()
                except OSError as error:  # too little memory, too many open files
                    log.warning("No process that reads requests starts: %s", error)
                    await asyncio.sleep(_SECONDS_TO_RETRY)

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


def _explain(status: int, task: str, subject: str) -> HTTPException:
    """Says why a process has ended."""
    if status == -signal.SIGPROF:
        reason = f"reading it takes more than {SECONDS[task]:g} s of processor time"
    elif status == OUT_OF_MEMORY:
        reason = f"reading it takes more than {MAX_MEGABYTES} MB of memory"
    else:
        log.warning("A process that reads requests has ended with status %d.", status)
        if status == -signal.SIGKILL:  # by the system or by hand: not for the content
            return busy("The process that read the request was ended")
        reason = "it can't be read"
    return HTTPException(400, f"{subject}: {reason}")
