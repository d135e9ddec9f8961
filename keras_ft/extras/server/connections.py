"""HTTP connections, with limits of number and time that uvicorn does not have.

Without them, clients that send or read nothing, or little, would keep others out.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Requests on further connections are answered with 503; still further connections are
# closed at once, since a process may often have no more than 1,024 open files.
MAX_CONNECTIONS = 512
_MAX_OPEN = 768
# For the header of a request, and for the client to read the answer before it.
SECONDS = 30.0
# For the body and the answer, whose own limits end sooner, with a status.
_SECONDS_IN_WORK = 100.0
# Parsing 256 kB of chunks of one byte, asyncio's default, would take half a second.
_MAX_BYTES_AT_A_TIME = 2**13


class LimitedProtocol(H11Protocol):
    """HTTP for one connection.

    It is h11 also if httptools is installed, which takes headers of any size.
    """

    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _MAX_BYTES_AT_A_TIME  # type: ignore[attr-defined]
        self._await_request()
        if len(self.connections) > _MAX_OPEN:
            transport.abort()

    def on_response_complete(self) -> None:
        self._timer.cancel()
        self._await_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._timer = self.loop.call_later(SECONDS, self._end_unless_in_work)

    def _end_unless_in_work(self) -> None:
        if self.cycle and not self.cycle.response_complete:
            end = self.transport.abort
            self._timer = self.loop.call_later(_SECONDS_IN_WORK, end)
        else:
            self.transport.abort()
