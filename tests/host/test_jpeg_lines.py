"""Lines of libjpeg on the C library's standard error, printed by hand."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading

from helpers import ROOT

from keras_ft.host import jpeg_lines

LINE = "Corrupt JPEG data: premature end of data segment"


def print_in_c(text):
    library = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(library, "stderr")
    library.fputs(text.encode(), stream)


def test_lines_of_libjpeg_are_taken_and_others_pass(capfd):
    with jpeg_lines.caught():
        print_in_c("libother: no memory\n")
        print("from Python", file=sys.stderr)
        for _ in range(3):
            print_in_c(f"{LINE}\n")
        with jpeg_lines.caught():  # a block inside
            print_in_c("Corrupt JPEG data: bad Huffman code\n")
        threads = [
            threading.Thread(target=print_in_c, args=[f"{LINE}\n"]) for _ in range(9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = jpeg_lines.take()
        assert taken == [LINE, "Corrupt JPEG data: bad Huffman code"]
        assert jpeg_lines.take() == []
    print_in_c("Not caught any more\n")
    shown = set(capfd.readouterr().err.splitlines())
    assert shown == {"Not caught any more", "from Python", "libother: no memory"}


def test_a_line_without_an_end_is_no_reason_to_wait(capfd):
    with jpeg_lines.caught():
        print_in_c("half a ")
        assert jpeg_lines.take() == []
        print_in_c("line\n")
        jpeg_lines.take()  # what was printed before has passed now
    assert capfd.readouterr().err == "half a line\n"


def test_an_error_ends_the_block(capfd):
    try:
        with jpeg_lines.caught():
            raise KeyError
    except KeyError:
        print_in_c(f"{LINE}\n")
    assert capfd.readouterr().err == f"{LINE}\n"


def test_standard_error_may_be_another_file_later(capfd, tmp_path):
    with jpeg_lines.caught():
        print_in_c("first\n")
        jpeg_lines.take()
    terminal = os.dup(2)
    with open(tmp_path / "log", "wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            with jpeg_lines.caught():
                print_in_c(f"second\n{LINE}\n")
                assert jpeg_lines.take() == [LINE]
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    assert (tmp_path / "log").read_text() == "second\n"
    assert capfd.readouterr().err == "first\n"


def run(body):
    """Runs lines in a block of a new process; returns what ended it and its stderr."""
    script = f"""
        import ctypes, os, subprocess
        from keras_ft.host import jpeg_lines
        libc = ctypes.CDLL(None)
        def put(text):
            libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr"))
        with jpeg_lines.caught():
            put(b"{LINE}\\n")
            {body}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_the_last_words_of_a_process_that_crashes_are_shown():
    assert run("put(b'last words\\n'); os.abort()") == (-6, "last words\n")
    assert run("put(b'last words\\n'); os._exit(3)") == (3, "last words\n")
    assert run("put(b'last words\\n')") == (0, "last words\n")


def test_nothing_waits_for_a_helper_that_was_killed():
    kill = "jpeg_lines._catcher._process.kill(); jpeg_lines._catcher._process.wait()"
    assert run(f"{kill}; put(b'x\\n'); assert jpeg_lines.take() == []") == (0, "")


def test_a_helper_that_cannot_start_is_done_without(monkeypatch, capfd):
    monkeypatch.setattr(jpeg_lines, "_catcher", jpeg_lines._Catcher())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with jpeg_lines.caught():
        print_in_c(f"{LINE}\n")
        assert jpeg_lines.take() == []
    assert capfd.readouterr().err == f"{LINE}\n"
