"""Runs processes that are the workers of one run."""

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from helpers import ROOT


def start_workers(
    commands: Sequence[Sequence[str]], logs: Path
) -> list[subprocess.Popen]:
    """Starts workers on this machine.

    Args:
        commands: The command of each.
        logs: Folder that gets the standard error of each in `INDEX.log`.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in commands]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index, command in enumerate(commands):
        task = {"type": "worker", "index": index}
        tf_config = {"cluster": {"worker": addresses}, "task": task}
        with open(logs / f"{index}.log", "w") as stream:
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=os.environ | {"TF_CONFIG": json.dumps(tf_config)},
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                )
            )
    return processes


def wait_for_workers(processes: Sequence[subprocess.Popen], logs: Path) -> None:
    """Waits until workers have ended; fails if one did not succeed."""
    statuses = [process.wait(300) for process in processes]
    tails = [path.read_text()[-3000:] for path in sorted(logs.glob("*.log"))]
    assert statuses == [0] * len(processes), "\n".join(tails)
