"""The workers of a run: processes that train together, one per machine or GPU.

Kubernetes training operators and sbatch scripts name them in TF_CONFIG, which is read
without TensorFlow: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG.
"""

import dataclasses
import os
from typing import Any

from keras_ft.errors import UserError
from keras_ft.host.typed_json import parse_json

VARIABLE = "TF_CONFIG"
_EXAMPLE = (
    '{"cluster": {"worker": ["a:12345", "b:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers of a run, and which of them this process is.

    Attributes:
        addresses: `host:port` of each; that of the chief is the first.
        has_chief_job: Whether TF_CONFIG calls the chief `chief`, and not `worker`.
    """

    addresses: tuple[str, ...] = ("",)
    index: int = 0
    has_chief_job: bool = False

    @property
    def count(self) -> int:
        return len(self.addresses)

    @property
    def jobs(self) -> dict[str, int]:
        """Number of workers by their job in TF_CONFIG."""
        if self.has_chief_job:
            return {"chief": 1, "worker": self.count - 1}
        return {"worker": self.count}


ALONE = Workers()


def load_workers() -> Workers:
    """Reads TF_CONFIG, by default alone; raises a UserError if it is malformed."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return ALONE
    try:
        return _parse(parse_json(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "another structure"
        raise UserError(
            f"{VARIABLE} must be like {_EXAMPLE}. Received: {text} ({reason})"
        ) from None


def choose_workers(strategy: str, batch_size: int, jit: str) -> Workers:
    """The workers by --strategy and TF_CONFIG; raises a UserError if flags conflict."""
    if strategy not in ("auto", "multi_worker"):
        return ALONE
    workers = load_workers()
    if workers.count == 1:
        if strategy == "multi_worker":
            raise UserError(
                "--strategy=multi_worker needs the environment variable TF_CONFIG to "
                "name several workers, see docs/scale.md. Received: one or none"
            )
        return ALONE
    if batch_size % workers.count:
        raise UserError(
            "--batch_size must be a multiple of the number of workers, "
            f"{workers.count}. Received: {batch_size}"
        )
    if jit == "on":
        raise UserError(
            "--jit=on and several workers exclude each other: XLA can't compile what "
            "they exchange. Give --jit=off"
        )
    return workers


def _parse(content: dict[str, Any]) -> Workers:
    cluster = {job: list(tasks) for job, tasks in content.get("cluster", {}).items()}
    chiefs, workers = cluster.pop("chief", []), cluster.pop("worker", [])
    addresses = tuple(map(str, chiefs + workers))
    if len(addresses) < 2:
        return ALONE
    others = [job for job, tasks in cluster.items() if tasks]
    if others:
        raise ValueError(f"a cluster of chief and worker only, without {others[0]}")
    if len(set(addresses)) < len(addresses) or len(chiefs) > 1:
        raise ValueError("each address once, and at most one chief")
    job, index = content["task"]["type"], int(content["task"]["index"])
    count = {"chief": len(chiefs), "worker": len(workers)}.get(job, 0)
    if not 0 <= index < count:
        raise ValueError(f"the task {job} {index} is not in the cluster")
    before = len(chiefs) if job == "worker" else 0
    return Workers(addresses, before + index, bool(chiefs))
