"""Load test of `--mode=serve`: good requests beside each kind of hostile one.

    python benchmarks/serve_hostile.py --model=runs/binary --data=photos

starts a server. For `--seconds`, a client sends good requests and another one asks for
/health, first alone and then beside clients that send a hostile request over and over.
A line for each kind has the median, the 99th percentile and the longest of their
milliseconds, the memory of the server and its processes at most and a second after, and
the statuses of the hostile requests. At the end all kinds are sent at once, and the
server is stopped. It takes two to three minutes.
"""

import argparse
import collections
import contextlib
import functools
import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hostile_files import encode, make_bomb, make_many_tags
from serve_load import Server, as_request, hostile_files

Attack = Callable[[Server], object]  # returns the status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a finished workdir")
    parser.add_argument("--data", required=True, help="a folder of JPEG images")
    parser.add_argument("--seconds", type=float, default=5, help="of each kind")
    options = parser.parse_args()
    files = sorted(Path(options.data).rglob("*.jp*g"))[:32]
    if not files:
        parser.error(f"--data has no JPEG images: {options.data}")
    bodies = [as_request(file.read_bytes()) for file in files]
    attacks = make_attacks()
    with Server(options.model) as server:
        measure(server, bodies, [], 2)  # warms up
        print("ms: median / 99th percentile / longest; MB: at most / a second after")
        print("| beside | good request | /health | memory | hostile requests |")
        print("| --- | --- | --- | --- | --- |")
        print(f"| nothing | {measure(server, bodies, [], options.seconds)} |")
        for name, (attack, count) in attacks.items():
            row = measure(server, bodies, count * [attack], options.seconds)
            print(f"| {name} | {row} |", flush=True)
        everything = [attack for attack, _ in attacks.values()]
        stop = threading.Event()
        clients = start([(repeat, (server, a, stop, [])) for a in everything])
        time.sleep(2)
        stop.set()
        began = time.perf_counter()
    print(f"It ended {time.perf_counter() - began:.1f} s after SIGTERM.")
    join(clients)


def make_attacks() -> dict[str, tuple[Attack, int]]:
    """By name: what is sent over and over, and by how many clients at a time."""
    files = hostile_files() | {
        "bomb": make_bomb(60_000),
        "tags": make_many_tags(20_000),
        "16-bit PNG": encode(Image.new("I;16", (9400, 9400)), "png", compress_level=1),
        "JPEG": encode(Image.new("RGB", (9400, 9400)), "jpeg"),
    }
    attacks: dict[str, tuple[Attack, int]] = {
        name: (functools.partial(post, body=as_request(content)), 1)
        for name, content in files.items()
    }
    attacks["6 x TIFF below the limit"] = (attacks["TIFF below the limit"][0], 6)
    lists = b'{"instances":[' + b"[]," * 3_400_000 + b"[]]}"
    attacks["JSON lists"] = (functools.partial(post, body=lists), 1)
    attacks["chunks of a byte"] = (send_small_chunks, 1)
    return attacks


def post(server: Server, body: bytes) -> int:
    connection = http.client.HTTPConnection(server.address, timeout=120)
    with contextlib.closing(connection):
        return server.post(connection, body)


def send_small_chunks(server: Server) -> str:
    """A body in chunks of one byte, for two seconds."""
    host, port = server.address.split(":")
    chunks, end = 10_000 * b"1\r\n \r\n", time.monotonic() + 2
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        head = f"POST {server.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
        connection.sendall(f"{head}\r\n\r\n".encode())
        while time.monotonic() < end:
            connection.sendall(chunks)
    return "given up"


def measure(
    server: Server, bodies: list[bytes], attacks: list[Attack], seconds: float
) -> str:
    """The cells of a row."""
    stop, statuses = threading.Event(), []
    attackers = start([(repeat, (server, a, stop, statuses)) for a in attacks])
    time.sleep(0.3 * bool(attacks))
    good: list[float] = []
    health: list[float] = []
    megabytes: list[float] = []
    clients = start(
        [
            (send_good, (server, bodies, stop, good)),
            (ask_health, (server, stop, health)),
            (watch_memory, (server, stop, megabytes)),
        ]
    )
    time.sleep(seconds)
    stop.set()
    join(clients)
    join(attackers)
    time.sleep(1)
    memory = f"{max(megabytes):.0f} / {memory_of_all(server):.0f}"
    counts = collections.Counter(map(str, statuses))
    sent = ", ".join(f"{count} x {status}" for status, count in counts.items())
    return f"{describe(good)} | {describe(health)} | {memory} | {sent}"


def describe(durations: list[float]) -> str:
    middle, late = 1000 * np.percentile(durations, (50, 99))
    return f"{middle:.0f} / {late:.0f} / {1000 * max(durations):.0f}"


def repeat(
    server: Server, attack: Attack, stop: threading.Event, statuses: list[object]
) -> None:
    while not stop.is_set():
        try:
            statuses.append(attack(server))
        except (OSError, http.client.HTTPException) as error:
            statuses.append(type(error).__name__)


def send_good(
    server: Server, bodies: list[bytes], stop: threading.Event, durations: list[float]
) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=120)
    for body in cycle(bodies, stop):
        began = time.perf_counter()
        status = server.post(connection, body)
        durations.append(time.perf_counter() - began)
        assert status == 200, status  # noqa: S101
    connection.close()


def cycle(bodies: list[bytes], stop: threading.Event) -> Iterator[bytes]:
    number = 0
    while not stop.wait(0.01):
        yield bodies[number % len(bodies)]
        number += 1


def ask_health(server: Server, stop: threading.Event, durations: list[float]) -> None:
    while not stop.wait(0.02):
        began = time.perf_counter()
        connection = http.client.HTTPConnection(server.address, timeout=120)
        connection.request("GET", "/health")
        connection.getresponse().read()
        durations.append(time.perf_counter() - began)
        connection.close()


def watch_memory(server: Server, stop: threading.Event, values: list[float]) -> None:
    values.append(memory_of_all(server))
    while not stop.wait(0.02):
        values.append(memory_of_all(server))


def memory_of_all(server: Server) -> float:
    """Megabytes of the server and of its processes."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(resident_megabytes(each) for each in (pid, *children))


def resident_megabytes(pid: int | str) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has just ended
        return 0
    return pages * 4096 / 2**20


def start(calls: list[tuple[Callable, tuple]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=f, args=a, daemon=True) for f, a in calls]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
