"""The processes that read requests: their limits, and that they are replaced."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hostile_files import encode, make_blocks
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")

from starlette.exceptions import HTTPException

from keras_ft.extras.server import readers as module
from keras_ft.extras.server.bodies import Bodies, Body
from keras_ft.extras.server.readers import Readers


@pytest.fixture
def one_process(monkeypatch):
    for name in ("_MAX_READING", "_MAX_CONVERTING"):
        monkeypatch.setattr(module, name, 1)


def run(story):
    """Runs a story with readers; afterwards, their processes have ended."""

    async def run_all():
        readers = Readers()
        async with readers.running():
            await story(readers)
            processes = [*readers._reading.processes, *readers._converting.processes]
        assert all(process.returncode is not None for process in processes)

    asyncio.run(run_all())


def read(readers, content):
    body = Body(Bodies())
    body.content = content
    return readers.read("image", body)


async def assert_works(readers):
    content = encode(Image.new("RGB", (8, 6), (1, 2, 3)), "tiff")
    [image], _ = await read(readers, content)
    with Image.open(io.BytesIO(image.content)) as converted:
        np.testing.assert_array_equal(converted, np.full((6, 8, 3), (1, 2, 3)))
    assert image.num_pixels == 48


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"SECONDS": {"image": 0.1}}, "The body: .* more than 0.1 s of processor"),
        (
            {"SECONDS": {"image": 2.0, "convert": 0.02}},
            "Image 0: reading it takes more than 0.02 s of processor time",
        ),
        ({"MAX_MEGABYTES": 150}, "Image 0: reading it takes more than 150 MB"),
    ],
    ids=["header", "conversion", "memory"],
)
def test_what_exceeds_a_limit_is_refused_and_the_process_replaced(
    one_process, monkeypatch, limits, reason
):
    is_header = "image" in limits.get("SECONDS", {}) and len(limits["SECONDS"]) == 1
    tiff = encode(Image.new("RGB", (4000, 4000)), "tiff", compression="tiff_lzw")
    content = make_blocks(2_000_000) if is_header else tiff

    async def story(readers):
        await assert_works(readers)
        pool = readers._reading if is_header else readers._converting
        [first] = pool.processes
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(module, name, value)
            if "MAX_MEGABYTES" in limits:
                pool._replace(await pool._free.get())
            with pytest.raises(HTTPException, match=reason) as caught:
                await read(readers, content)
        assert caught.value.status_code == 400
        await assert_works(readers)
        assert first not in pool.processes

    run(story)


def test_a_request_that_is_given_up_ends_its_process(one_process):
    async def story(readers):
        [process] = readers._reading.processes
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await read(readers, make_blocks(20_000_000))
        assert await process.wait() == -signal.SIGKILL
        await assert_works(readers)

    run(story)


def test_a_process_that_is_killed_is_replaced(one_process):
    async def story(readers):
        await assert_works(readers)
        [process] = readers._converting.processes
        process.kill()
        await process.wait()
        await assert_works(readers)

    run(story)


def test_a_request_whose_process_is_killed_may_be_sent_again(one_process):
    async def story(readers):
        [process] = readers._reading.processes
        reading = asyncio.create_task(read(readers, make_blocks(20_000_000)))
        await asyncio.sleep(0.1)
        process.kill()
        with pytest.raises(HTTPException, match="send it again later") as caught:
            await reading
        assert caught.value.status_code == 503

    run(story)


def test_a_process_that_cannot_start_is_started_later(one_process, monkeypatch, caplog):
    start, failures = asyncio.create_subprocess_exec, [OSError("too many open files")]

    async def start_or_fail(*arguments, **options):
        if failures:
            raise failures.pop()
        return await start(*arguments, **options)

    async def story(readers):
        [process] = readers._converting.processes
        monkeypatch.setattr(module, "_SECONDS_TO_RETRY", 0.0)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", start_or_fail)
        process.kill()
        await process.wait()
        await assert_works(readers)
        assert "reads requests starts: too many open files" in caplog.text

    run(story)


def test_conversions_leave_the_processor_to_the_server(one_process):
    async def story(readers):
        await assert_works(readers)
        [process] = readers._converting.processes
        assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10

    run(story)


def test_processes_end_with_a_server_that_is_killed(tmp_path):
    script = """
import asyncio, time
from keras_ft.extras.server.readers import Readers
async def main():
    readers = Readers()
    async with readers.running():
        pools = (readers._reading, readers._converting)
        print(*(p.pid for pool in pools for p in pool.processes), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    server = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pids = [int(pid) for pid in server.stdout.readline().split()]
    assert len(pids) >= 3
    server.kill()
    server.communicate()
    end = time.monotonic() + 20
    while any(map(runs, pids)):
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
