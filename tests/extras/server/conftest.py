"""A server of one finished run."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs(finished_run, tmp_path_factory):
    """A folder with one finished run, `mine`."""
    folder = tmp_path_factory.mktemp("runs")
    return shutil.copytree(finished_run.run.workdir, folder / "mine").parent


@pytest.fixture(scope="module")
def client(runs):
    """A client of its server."""
    from server_helpers import make_client  # needs the extra serve

    with make_client(runs) as client:
        yield client


@pytest.fixture(scope="module")
def images(finished_run):
    """The content of three image files."""
    folder = Path(finished_run.data.data)
    return [(folder / name / "3.png").read_bytes() for name in ("red", "blue", "green")]
