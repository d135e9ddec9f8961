"""The connection to a Ray cluster, or a Ray on this machine for as long as needed."""

import contextlib
import dataclasses
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_ft.config.modes import ClusterConfig
from keras_ft.errors import UserError
from keras_ft.host import signals

log = logging.getLogger("keras_ft")

# What passes between processes is small: paths, flags and probabilities.
_LOCAL = {
    "_node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 128 * 2**20,
}
# Until an address counts as wrong. Ray itself would try for minutes.
_CONNECT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a cluster that one run or one process that predicts has."""

    cpus: int  # cores
    gpus: int
    count: int  # how many such parts the nodes have

    def apply(self) -> None:
        """Keeps this process, in which TensorFlow has not started, to its part."""
        # Ray does so for GPUs only, and only if there are any.
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(self.cpus)
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


@contextlib.contextmanager
def connected(config: ClusterConfig) -> Iterator[Share]:
    """Connects to a cluster; what runs there ends at the end of the block.

    It also ends if this process is killed: Ray ends the processes of its tasks.

    Raises:
        UserError: There is no cluster, it has another version, or no node is as large
            as a part.
    """
    import ray

    with signals.handlers_kept():
        _connect(config.address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = compute_share(nodes, config)
        found = "Ray: %d at a time, each with %d cores and %d GPUs; nodes: %d."
        log.info(found, share.count, share.cpus, share.gpus, len(nodes))
        yield share
    finally:
        ray.shutdown()


def compute_share(nodes: Sequence[Mapping[str, float]], config: ClusterConfig) -> Share:
    """Resolves `auto`: one GPU, if there are any, and the cores that come with it."""
    gpus, cpus = config.run_gpus, config.run_cpus
    if gpus is None:
        gpus = int(any(node.get("GPU", 0) >= 1 for node in nodes))
    fitting = [
        (node["CPU"], node.get("GPU", 0) // gpus if gpus else math.inf)
        for node in nodes
        if node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= gpus
    ]
    if cpus is None:
        shares = (cores // (parts if gpus else 1) for cores, parts in fitting)
        cpus = max(1, int(min(shares, default=1)))
    count = sum(int(min(cores // cpus, parts)) for cores, parts in fitting)
    if not count:
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        most = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        raise UserError(
            "--run_cpus and --run_gpus must fit on a node. Received: "
            f"{cpus} and {gpus}; the nodes have up to {largest} cores and {most} GPUs"
        )
    return Share(cpus, gpus, count)


def _connect(address: str) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= _LOCAL
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        if address == "auto":  # Ray would find it, and not check it
            from ray._private.utils import read_ray_address

            address = os.environ.get("RAY_ADDRESS") or read_ray_address()
            if not address:
                raise UserError(
                    "--cluster=ray:auto needs a cluster that was started with ray "
                    "start on this machine, or RAY_ADDRESS."
                )
        if address != "local":
            host, _, port = address.rpartition(":")
            peer = host.strip("[]"), int(port)
            socket.create_connection(peer, _CONNECT_SECONDS).close()
        ray.init(address, **options)
    # Ray raises these for what is wrong with a cluster. OSError includes
    # ConnectionError and TimeoutError.
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--cluster=ray can't use {address}: {_first_line(error)}. If the cluster "
            "asks for a token, RAY_AUTH_MODE=token must be set here, too"
        ) from error


def explain(error: Exception) -> Exception:
    """What to raise for a `RayError` of a task: a UserError, or `error` itself."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return cause
    if "No module named 'keras_ft" in str(error):
        return UserError(
            "--cluster: all nodes need this version of the program: pip install "
            "'keras_ft[ray]', or a clone in a shared folder where the command is given."
        )
    return error


def get_node() -> str:
    """The address of the node that this process runs on."""
    import ray

    return ray.util.get_node_ip_address()


def describe(error: Exception) -> str:
    """Says in one line why a process or a node of Ray has ended."""
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()
