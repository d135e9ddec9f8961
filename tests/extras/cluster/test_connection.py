import importlib.util
import socket
import subprocess
import sys

import pytest
from helpers import ROOT

from keras_ft.config.modes import ClusterConfig
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.cluster.connection import compute_share, connected, explain

needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="needs the extra ray"
)
HEAD = {"CPU": 0.0}
CPUS = {"CPU": 4.0}
GPUS = {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "flags", "expected"),
    [
        ([CPUS], {}, (4, 0, 1)),
        ([CPUS, {"CPU": 16.0}, HEAD], {}, (4, 0, 5)),
        ([CPUS, CPUS], {"run_cpus": 3}, (3, 0, 2)),
        # The cores of a node are divided by its GPUs; the others have none.
        ([CPUS, GPUS], {}, (4, 1, 4)),
        ([CPUS, GPUS], {"run_gpus": 2}, (8, 2, 2)),
        ([CPUS, GPUS], {"run_gpus": 0}, (4, 0, 5)),
        ([GPUS], {"run_cpus": 8}, (8, 1, 2)),
        ([{"CPU": 2.0, "GPU": 8.0}], {}, (1, 1, 2)),
    ],
)
def test_a_run_has_a_gpu_and_the_cores_that_come_with_it(nodes, flags, expected):
    share = compute_share(nodes, ClusterConfig("ray", **flags))
    assert (share.cpus, share.gpus, share.count) == expected


@pytest.mark.parametrize("flags", [{"run_cpus": 17}, {"run_gpus": 5}])
def test_a_run_that_no_node_has_room_for_is_refused(flags):
    with pytest.raises(UserError, match="must fit on a node.*16 cores and 4 GPUs"):
        compute_share([HEAD, GPUS], ClusterConfig("ray", **flags))


@needs_ray
def test_an_address_without_a_cluster_is_one_line(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    for address, reason in [(closed, "Connection refused"), ("no.invalid:6379", "")]:
        with (
            pytest.raises(UserError, match=f"can't use {address}: .*{reason}") as e,
            connected(ClusterConfig(f"ray:{address}")),
        ):
            pass
        assert "\n" not in str(e.value)
    # Ray remembers clusters that do not run any more.
    for address, error in [(closed, f"can't use {closed}"), ("", "needs a cluster")]:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda a=address: a)
        with (
            pytest.raises(UserError, match=error),
            connected(ClusterConfig("ray:auto")),
        ):
            pass


def test_a_node_without_this_program_is_a_user_error():
    error = explain(RuntimeError("...\nNo module named 'keras_ft'\n..."))
    assert isinstance(error, UserError)
    other = ValueError("a bug")
    assert explain(other) is other


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cluster": "dask"}, "must be ray, ray:auto or ray:HOST:PORT.*: dask"),
        ({"cluster": "ray:"}, "must be ray, ray:auto or"),
        ({"cluster": "ray:host"}, "must be ray, ray:auto or"),
        ({"cluster": "ray:ray://host:10001"}, "must be ray, ray:auto or"),
        ({"cluster": "", "run_cpus": 2}, "--run_cpus and --run_gpus need --cluster"),
        ({"cluster": "", "run_gpus": 0}, "--run_cpus and --run_gpus need --cluster"),
        ({"run_cpus": 0}, "--run_cpus must be at least 1"),
    ],
)
def test_broken_rules_name_rule_and_value(flags, message):
    base = {"mode": "predict", "model": "m", "data": "d", "workdir": "w"}
    with pytest.raises(UserError, match=message):
        Config(**(base | {"cluster": "ray"} | flags))


@needs_ray
@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        ("", ""),
        ("ray", "local"),
        ("ray:auto", "auto"),
        ("ray:node-1.lan:6379", "node-1.lan:6379"),
        ("ray:[fe80::1]:6379", "[fe80::1]:6379"),
    ],
)
def test_the_address_is_what_follows_ray(cluster, address):
    config = Config(mode="predict", model="m", data="d", cluster=cluster)
    assert config.cluster.address == address


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'keras_ft\[ray\]'"):
        Config(mode="predict", model="m", data="d", cluster="ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    Config(mode="predict", model="m", data="d")


@needs_ray
@pytest.mark.slow
def test_ray_is_started_on_this_machine_and_stopped():
    script = (
        "import signal, subprocess\n"
        "from keras_ft.extras.cluster.connection import connected\n"
        "from keras_ft.config.modes import ClusterConfig\n"
        "handler = signal.getsignal(signal.SIGTERM)\n"
        "with connected(ClusterConfig('ray', run_cpus=1)) as share:\n"
        "    assert signal.getsignal(signal.SIGTERM) == handler\n"
        "    import ray\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "print(share.cpus, share.count >= 1, address)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    cpus, has_room, address = done.stdout.split()
    assert (cpus, has_room) == ("1", "True")
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
