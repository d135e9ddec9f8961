import inspect

from keras_ft.host import cpu

read_flags = inspect.unwrap(cpu.flags)  # conftest.py replaces it


def test_flags_are_single_words_of_cpuinfo(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\n")
    monkeypatch.setattr("builtins.open", lambda *_, **__: cpuinfo.open())
    flags = read_flags()
    assert flags >= {"fpu", "avx2", "amx_bf16"}
    assert "amx" not in flags


def test_a_system_without_cpuinfo_has_no_flags(monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    assert read_flags() == set()
