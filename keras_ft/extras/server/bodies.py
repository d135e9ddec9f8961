"""Reads the bodies of requests, within limits of size, memory and time."""

import asyncio
import contextlib
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
        self._bytes_in_work = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Reads a body, which counts as in work until the end of the block.

        Raises:
            HTTPException: It is too large or too slow, or too much is in work.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(SECONDS):
                async for chunk in request.stream():
                    self._bytes_in_work += len(chunk)
                    body += chunk
                    if len(body) > MAX_BYTES:
                        limit = f"A body has at most {MAX_BYTES} bytes"
                        raise HTTPException(413, f"{limit}; send fewer images")
                    if self._bytes_in_work > MAX_BYTES_IN_WORK:
                        raise busy("Too much waits")
            yield bytes(body)
        except TimeoutError as error:
            raise HTTPException(408, f"No whole body in {SECONDS:g} s") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The body ended early") from error
        finally:
            self._bytes_in_work -= len(body)
