"""Load test of `--mode=serve`: rate, latency, memory and hostile requests.

    python benchmarks/serve_load.py --model=runs/binary --data=photos

starts a server, and prints requests per second and the median and 99th percentile of
the seconds per request at 1, 8 and 64 clients, interleaved with the bare model
(the same images through the classifier here, in batches of 1 and 32). Then,
for `--minutes`, 8 clients send good requests while another one sends hostile ones; it
prints the memory of the server by minute, and the status of every kind of request.
"""

import argparse
import base64
import collections
import functools
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hostile_files import (
    encode,
    make_blocks,
    make_bomb,
    make_frames,
    make_scans,
    make_texts,
)

CLIENTS = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a finished workdir")
    parser.add_argument("--data", required=True, help="a folder of JPEG images")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10, help="of the memory test")
    options = parser.parse_args()
    files = sorted(Path(options.data).rglob("*.jp*g"))[:256]
    images = [file.read_bytes() for file in files]
    bodies = [
        json.dumps({"instances": [{"b64": base64.b64encode(i).decode()}]}).encode()
        for i in images
    ]
    with Server(options.model) as server:
        measure_rates(server, options, images, bodies)
        measure_memory(server, options.minutes, bodies)


class Server:
    """The server in a process of its own."""

    def __init__(self, model: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keras_ft", "--mode=serve", f"--model={model}"]
            + ["--port=0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stderr:
            if found := re.search(r"Serves (\S+), version", line):
                self.path = f"/v1/models/{found[1]}:predict"
            if found := re.search(r"Listens on (http\S+)\. ", line):
                self.address = urlsplit(found[1]).netloc
                break
        threading.Thread(target=self._pass_log_on, daemon=True).start()

    def _pass_log_on(self) -> None:
        for line in self.process.stderr:
            print(line, end="", file=sys.stderr)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        print(f"Ended with status {self.process.wait(60)}.")

    def post(self, connection: http.client.HTTPConnection, body: bytes) -> int:
        """Sends a request; returns the status of the answer."""
        connection.request("POST", self.path, body)
        response = connection.getresponse()
        response.read()
        return response.status

    def megabytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def measure_rates(server, options, images, bodies) -> None:
    """Prints the rates of the server and of the bare model."""
    from keras_ft import load_classifier
    from keras_ft.serving.trained_classifier import classify_images

    classifier = load_classifier(options.model)
    bare = {
        f"bare model, batches of {size}": lambda size=size: run_bare(
            lambda batch: classify_images(classifier, batch),
            images,
            size,
            options.seconds,
        )
        for size in (1, 32)
    }
    served = {
        f"server, {count} clients": lambda count=count: run_clients(
            server, bodies, count, options.seconds
        )
        for count in CLIENTS
    }
    results = collections.defaultdict(list)
    for number in range(options.rounds + 1):
        for name, measure in (bare | served).items():
            result = measure()
            if number:  # the first round warms up
                results[name].append(result)
    print("| | images/s | median s | 99th percentile s |\n| --- | --- | --- | --- |")
    for name, rounds in results.items():
        medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
        print(f"| {name} | {medians[0]:.1f} | {medians[1]:.4f} | {medians[2]:.4f} |")


def summarize(durations: list[float], count: int, seconds: float) -> list[float]:
    """Images per second, median and 99th percentile of the durations."""
    return [count / seconds, *np.percentile(durations, (50, 99)).tolist()]


def run_bare(
    classify: Callable, images: list[bytes], size: int, seconds: float
) -> list[float]:
    durations = []
    start = time.perf_counter()
    for batch in cycle_batches(images, size):
        began = time.perf_counter()
        classify(batch)
        durations.append(time.perf_counter() - began)
        if time.perf_counter() - start > seconds:
            break
    elapsed = time.perf_counter() - start
    return summarize(durations, size * len(durations), elapsed)


def cycle_batches(images: list[bytes], size: int) -> Iterator[list[bytes]]:
    number = 0
    while True:
        yield [images[(number + i) % len(images)] for i in range(size)]
        number += size


def run_clients(
    server: Server, bodies: list[bytes], count: int, seconds: float
) -> list[float]:
    durations: list[float] = []
    end = time.perf_counter() + seconds

    def send(number: int) -> None:
        connection = http.client.HTTPConnection(server.address, timeout=120)
        while time.perf_counter() < end:
            began = time.perf_counter()
            status = server.post(connection, bodies[number % len(bodies)])
            durations.append(time.perf_counter() - began)
            assert status == 200, status  # noqa: S101
            number += count
        connection.close()

    start = time.perf_counter()
    clients = [threading.Thread(target=send, args=(i,)) for i in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return summarize(durations, len(durations), time.perf_counter() - start)


def measure_memory(server: Server, minutes: float, bodies: list[bytes]) -> None:
    """Prints memory by minute under good and hostile requests."""
    stop = threading.Event()
    durations: list[float] = []
    statuses: dict[str, collections.Counter] = collections.defaultdict(
        collections.Counter
    )

    def send_good(number: int) -> None:
        connection = http.client.HTTPConnection(server.address, timeout=120)
        while not stop.is_set():
            began = time.perf_counter()
            status = server.post(connection, bodies[number % len(bodies)])
            durations.append(time.perf_counter() - began)
            statuses["good"][status] += 1
            number += 1

    def send_hostile() -> None:
        while not stop.wait(0.1):
            for name, body in hostile_bodies(bodies[0]):
                connection = http.client.HTTPConnection(server.address, timeout=120)
                try:
                    statuses[name][server.post(connection, body)] += 1
                except (OSError, http.client.HTTPException) as error:
                    statuses[name][type(error).__name__] += 1
                connection.close()
            break_off(server, bodies[0])

    clients = [threading.Thread(target=send_good, args=(i,)) for i in range(8)]
    clients.append(threading.Thread(target=send_hostile))
    for client in clients:
        client.start()
    for minute in range(int(minutes) + 1):
        print(f"minute {minute}: {server.megabytes():.0f} MB", flush=True)
        if minute < minutes:
            time.sleep(60 * min(1, minutes - minute))
    stop.set()
    for client in clients:
        client.join()
    for name, counts in statuses.items():
        print(f"{name}: {dict(counts)}")
    middle, late = np.percentile(durations, (50, 99))
    longest = max(durations)
    print(f"good: median {middle:.3f} s, 99th percentile {late:.3f}, max {longest:.3f}")


def hostile_bodies(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Requests that must be refused, or take little work, by name."""
    image = base64.b64decode(json.loads(good)["instances"][0]["b64"])
    yield "no JSON", good[: len(good) // 2]
    yield "deep JSON", b"[" * 1_000_000
    yield "wrong JSON", b'{"instances": [{"b64": 3}]}'
    yield "cut image", as_request(image[: len(image) // 2])
    yield "no image", as_request(bytes(10_000))
    yield "bomb", as_request(make_bomb(60_000))
    yield "JSON lists", b'{"instances":[' + b"[]," * 3_400_000 + b"[]]}"
    for name, content in hostile_files().items():
        yield name, as_request(content)
    yield "many pixels", as_request(*[hostile_files()["flat WebP"]] * 10)
    yield "huge body", b" " * 40_000_000
    yield "many images", json.dumps({"instances": [{"b64": ""}] * 10_000}).encode()


@functools.cache
def hostile_files() -> dict[str, bytes]:
    """Files that take much work; the WebP, PNG and GIFs are decoded all the same."""
    Image.MAX_IMAGE_PIXELS = None
    large = Image.new("RGBA", (9400, 9400), (1, 2, 3, 4))
    return {
        "TIFF": encode(large, "tiff", compression="tiff_adobe_deflate"),
        "AVIF": encode(large.convert("RGB"), "avif", speed=10),
        "TIFF below the limit": encode(
            large.resize((7000, 7000)), "tiff", compression="tiff_adobe_deflate"
        ),
        "flat WebP": encode(large, "webp", lossless=True, method=0),
        "scans": make_scans(8000, 1000),
        "frames": make_frames(1000, 3000),
        "blocks": make_blocks(10_000_000),
        "texts": make_texts(900, 7_000_000),
    }


def as_request(*contents: bytes) -> bytes:
    images = [{"b64": base64.b64encode(content).decode()} for content in contents]
    return json.dumps({"instances": images}).encode()


def break_off(server: Server, body: bytes) -> None:
    """Begins a request and closes the connection in the middle of it."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {server.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body[: len(body) // 2])


if __name__ == "__main__":
    main()
