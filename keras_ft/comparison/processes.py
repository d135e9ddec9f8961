"""Trains each run in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from keras_ft.comparison.sweep import Run
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.host.files import writing
from keras_ft.host.signals import child_process
from keras_ft.system import workers

# The program, which ends with its parent: also if that is killed, as Ray does.
_PROGRAM = """
import sys
from keras_ft.host import signals
signals.end_with_parent(int(sys.argv[1]))
from keras_ft import cli
sys.exit(cli.main(["keras_ft", *sys.argv[2:]]))
"""


def run_all(runs: Sequence[Run]) -> Generator[tuple[Run, str], None, None]:
    """Trains runs one after the other; yields each, and how it has ended."""
    for run in runs:
        yield run, train_in_process(run.config, run.log)


def train_in_process(config: Config, log_file: Path) -> str:
    """Trains in a new process, and returns in one line how it ended.

    Its crash does not end this process; a signal that ends this one stops it, too. What
    it prints is appended to the log file.

    Raises:
        UserError: The log file can't be written.
    """
    with writing():
        log_file.parent.mkdir(exist_ok=True)
        stream = open(log_file, "ab+")  # noqa: SIM115
    # The new process can import what this one can.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    arguments = [*flags.to_arguments(config), f"--workdir={config.run.workdir}"]
    with stream:
        start = stream.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # A run of a comparison is not one of several workers.
            env={**os.environ, "PYTHONPATH": path, workers.VARIABLE: ""},
            process_group=0,  # otherwise Ctrl-C would reach it twice and kill it
        )
        with child_process(process):
            # wait() would hold a lock that the signal handler needs to end the process.
            while process.poll() is None:
                time.sleep(0.1)
        stream.seek(start)
        output = stream.read().decode(errors="replace")
    return _explain(process.returncode, output)


def _explain(status: int, output: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps because the memory was full" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    # An error message may follow an unfinished progress bar on the same line.
    errors = re.findall("keras_ft: (.*)", output)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (errors or lines or [f"exit status {status}"])[-1]
