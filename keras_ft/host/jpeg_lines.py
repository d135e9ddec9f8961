"""What libjpeg prints about damaged files, on standard error and without their names.

TensorFlow lets it print a line each time such a file is decoded. Here these lines are
caught, so that the program can name each file, once.

While they are, the variable `stderr` of the C library is a pipe to a small process. It
keeps the lines of libjpeg, and passes on all others at once, even if this process
crashes. File descriptor 2, to which Python writes, stays as it is.
"""

import atexit
import contextlib
import ctypes
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

log = logging.getLogger("keras_ft")

# How its warnings begin, and its errors: TensorFlow lets it print them, and raises one.
_OF_LIBJPEG = (
    "Corrupt JPEG data|Premature end of JPEG|Inconsistent progression sequence|"
    "Unknown Adobe color|Warning: unknown JFIF|Invalid SOS parameters|"
    "Bogus |Improper call to JPEG|Not a JPEG|Empty JPEG|Maximum supported image|"
    "Unsupported (JPEG|marker|color)|Invalid (JPEG|component|progressive)|"
    "Sampling factors|Missing Huffman|(Huffman|Quantization|Arithmetic) table 0x"
)
_MARK = b"\0\n"  # asks the process for the lines that it has kept, and ends its answer
_PROCESS = r"""
import re, sys
of_libjpeg, mark = re.compile(sys.argv[1].encode()), b"\0\n"
kept = {}
for line in sys.stdin.buffer:
    if line.endswith(mark):
        sys.stdout.buffer.write(b"".join(kept) + mark)
        sys.stdout.flush()
        kept.clear()
        line = line.removesuffix(mark)
    if of_libjpeg.match(line):
        kept[line] = None
        continue
    try:
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
    except OSError:
        pass
"""
_UNBUFFERED = 2  # `_IONBF` of the C library
_SECONDS = 5.0  # in which the process must end after its input has


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Keeps the lines of libjpeg off standard error in this block, and in all threads.

    Blocks may be nested. Where lines can't be caught, they are printed as before.
    """
    _catcher.enter()
    try:
        yield
    finally:
        _catcher.leave()


def take() -> list[str]:
    """Returns the lines that were caught since the last call, each line once."""
    return _catcher.take()


class _Stream:
    """A stream of the C library that can take the place of its `stderr`.

    It exists as long as this process, since another thread may just print to it.
    """

    def __init__(self, pipe: int):
        library = ctypes.CDLL(None)
        self._variable = ctypes.c_void_p.in_dll(library, "stderr")
        self._original = self._variable.value
        self.file = os.dup(pipe)
        library.fdopen.restype = ctypes.c_void_p
        self._stream = library.fdopen(self.file, b"w")
        library.setvbuf(ctypes.c_void_p(self._stream), None, _UNBUFFERED, 0)

    def replace_stderr(self) -> None:
        self._variable.value = self._stream

    def restore_stderr(self) -> None:
        self._variable.value = self._original


class _Catcher:
    """Starts the process when it is first needed; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_blocks = 0
        self._stream: _Stream | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._made_for: tuple[int, ...] = ()

    def enter(self) -> None:
        with self._lock:
            self._num_blocks += 1
            if self._num_blocks > 1:
                return
            try:
                self._start().replace_stderr()
            except (OSError, ValueError) as error:
                log.debug("Lines of libjpeg are not caught: %s", error)

    def leave(self) -> None:
        with self._lock:
            self._num_blocks -= 1
            if self._stream and not self._num_blocks:
                self._stream.restore_stderr()

    def take(self) -> list[str]:
        with self._lock:
            if not self._stream or not self._process or not self._process.stdout:
                return []
            lines = []
            with contextlib.suppress(OSError):  # the process was killed
                os.write(self._stream.file, _MARK)
                while (line := self._process.stdout.readline()) not in (_MARK, b""):
                    lines.append(line.decode(errors="replace").strip())
            return lines

    def _start(self) -> _Stream:
        """Starts the process, unless there is one that writes where it should."""
        status = os.fstat(2)
        made_for = os.getpid(), status.st_dev, status.st_ino
        is_running = self._process and self._process.poll() is None
        if self._stream and is_running and made_for == self._made_for:
            return self._stream
        output, pipe = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable or "python3", "-IS", "-c", _PROCESS, _OF_LIBJPEG],
                stdin=output,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is not meant for it
            )
            if self._stream:
                os.dup2(pipe, self._stream.file, inheritable=False)
            else:
                self._stream = _Stream(pipe)
                atexit.register(self._end)
        finally:
            os.close(output)
            os.close(pipe)
        self._wait()  # for the one before
        self._process, self._made_for = process, made_for
        return self._stream

    def _end(self) -> None:
        """Waits until the process has passed on all lines."""
        if self._stream:
            self._stream.restore_stderr()
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self._stream.file, inheritable=False)
        self._wait()

    def _wait(self) -> None:
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS)
            if self._process.stdout:
                self._process.stdout.close()


_catcher = _Catcher()
