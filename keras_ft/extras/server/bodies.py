"""Reads the bodies of requests, within limits of size, memory and time."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MAX_BYTES = 32 * 2**20
# Of all requests together that are not answered yet.
MAX_BYTES_IN_WORK = 512 * 2**20
SECONDS = 30.0


def busy(reason: str) -> HTTPException:
    """What a client may send again."""
    return HTTPException(503, f"{reason}; send it again later", {"Retry-After": "1"})


class Bodies:
    """The bodies of the requests that are not answered yet."""

    def __init__(self) -> None:
        self.bytes_in_work = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator["Body"]:
        """Reads a body, which counts as in work until the end of the block.

        Raises:
            HTTPException: It is too large or too slow, or too much is in work.
        """
        body = Body(self)
        try:
            await body.receive(request)
            yield body
        finally:
            self.bytes_in_work -= body.held


class Body:
    """The body of a request, and what is made of it."""

    def __init__(self, bodies: Bodies):
        self._bodies = bodies
        self.content = bytearray()
        self.held = 0  # bytes

    async def receive(self, request: Request) -> None:
        """Receives the content."""
        try:
            async with asyncio.timeout(SECONDS):
                async for chunk in request.stream():
                    self.content += chunk
                    _check_size(self.content)
                    self.hold(len(chunk))
        except TimeoutError as error:
            raise HTTPException(408, f"No whole body in {SECONDS:g} s") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The body ended early") from error
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding == "gzip":
            self.content = await asyncio.to_thread(_unpack, self.content)
            self.hold(len(self.content))
        elif coding != "identity":
            headers = {"Accept-Encoding": "gzip"}
            raise HTTPException(415, "Content-Encoding must be gzip, or none", headers)

    def hold(self, num_bytes: int) -> None:
        """Counts bytes as in work; raises an HTTPException if these are too many."""
        self.held += num_bytes
        self._bodies.bytes_in_work += num_bytes
        if self._bodies.bytes_in_work > MAX_BYTES_IN_WORK:
            raise busy("Too much waits")


def _check_size(content: bytes | bytearray) -> None:
    if len(content) > MAX_BYTES:
        limit = f"A body has at most {MAX_BYTES} bytes, also when it is unpacked"
        raise HTTPException(413, f"{limit}; send fewer images")


def _unpack(packed: bytearray) -> bytearray:
    """Unpacks gzip, at most one byte more than a body may have."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(packed, MAX_BYTES + 1)
    except zlib.error as error:
        raise HTTPException(400, f"The body must be gzip: {error}") from error
    _check_size(content)
    if not unpacker.eof:
        raise HTTPException(400, "The body must be gzip: its end is missing")
    return bytearray(content)
