"""Clients that are slow, or many, over real connections."""

import asyncio
import contextlib

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import uvicorn

from keras_ft.extras.server import connections as module
from keras_ft.extras.server.connections import LimitedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def answer_length(_scope, receive, send):
    """Answers with the size of the body."""
    size, message = 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        size += len(message.get("body", b""))
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(size).encode()})


def run(story):
    """Runs a story with a function that opens a connection to a server."""

    async def run_all():
        settings = uvicorn.Config(
            answer_length, http=LimitedProtocol, port=0, lifespan="off", log_level=50
        )
        server = uvicorn.Server(settings)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with contextlib.ExitStack() as stack:

            async def connect():
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                return reader, writer

            await story(connect)
        server.should_exit = True
        await running

    asyncio.run(run_all())


async def is_answered(reader):
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
    return answer.startswith(b"HTTP/1.1 200")


async def is_closed(reader):
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionResetError:
        return True


def test_a_connection_without_a_request_is_closed(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.2)

    async def story(connect):
        for start in (b"", HEAD):
            reader, writer = await connect()
            writer.write(start)
            assert await is_closed(reader)
        reader, writer = await connect()
        for _ in range(2):  # the header of a next request is limited, too
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await is_answered(reader)
        writer.write(HEAD)
        assert await is_closed(reader)

    run(story)


def test_a_request_in_work_has_more_time_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.1)
    monkeypatch.setattr(module, "_SECONDS_IN_WORK", 0.3)

    async def story(connect):
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n1")
        await asyncio.sleep(0.2)
        writer.write(b"2")
        assert await is_answered(reader)
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n1")
        assert await is_closed(reader)

    run(story)


def test_too_many_connections_are_closed_and_others_answered(monkeypatch):
    monkeypatch.setattr(module, "_MAX_OPEN", 3)

    async def story(connect):
        kept = [await connect() for _ in range(3)]
        reader, _ = await connect()
        assert await is_closed(reader)
        reader, writer = kept[0]
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert await is_answered(reader)

    run(story)


def test_much_at_once_is_parsed_in_small_parts(monkeypatch):
    """So others are heard between them: chunks of a byte take a second per 500 kB."""
    sizes, receive = [], LimitedProtocol.data_received

    def record(self, data):
        sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(LimitedProtocol, "data_received", record, raising=False)

    async def story(connect):
        reader, writer = await connect()
        chunks = 20_000 * b"1\r\n \r\n"
        end = b"0\r\n\r\n"
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + end)
        assert await is_answered(reader)
        assert max(sizes) <= 2**14

    run(story)
