"""Trains the runs of a comparison as tasks on a Ray cluster."""

import collections
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_ft.comparison.processes import train_in_process
from keras_ft.comparison.sweep import Run
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.cluster.connection import (
    Share,
    connected,
    describe,
    explain,
    get_node,
)
from keras_ft.host import files
from keras_ft.runs.lock import wait_until_free

log = logging.getLogger("keras_ft")

# How often a run goes on elsewhere when its node dies.
_RETRIES = 3
# A process of a lost node may work on in the workdir until it notices. File servers
# keep its lock for a while, too: NFS version 4 for 90 seconds.
_LOCK_SECONDS = 150.0


def run_all(runs: Sequence[Run], config: Config) -> Iterator[tuple[Run, str]]:
    """Trains runs on a Ray cluster, as many at a time as it has room for.

    Each is a process that a task starts. A run whose node dies goes on in its workdir
    on another one. Yields runs and how they ended; see `processes.run_all`.

    Raises:
        UserError: The cluster can't be used, or a node does not share the workdir.
    """
    import ray

    folder = Path(config.run.workdir)
    with connected(config.cluster) as share, files.partial_folder(folder) as mark:
        task = ray.remote(_train).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        start = functools.partial(task.remote, share, os.getcwd(), mark)
        waiting = {start(run): run for run in runs}
        num_failures: collections.Counter[Path] = collections.Counter()
        while waiting:
            [ended], _ = ray.wait(list(waiting))
            run = waiting.pop(ended)
            end, node_failed = _load_end(ended)
            num_failures[run.workdir] += node_failed
            if node_failed and num_failures[run.workdir] <= _RETRIES:
                log.warning("%s goes on elsewhere: %s", run.workdir.name, end)
                waiting[start(run)] = run
            else:
                yield run, end


def _train(share: Share, working_folder: str, mark: Path, run: Run) -> str:
    """Trains a run on a node of the cluster; returns how it ended.

    `mark` is a folder that exists in the workdir of the comparison, where it is shared.
    """
    for folder in (working_folder, os.path.join(working_folder, mark)):
        if not os.path.isdir(folder):
            raise UserError(
                "--cluster: all nodes must share the file system of --workdir and of "
                f"the working folder. Received: node {get_node()} without {folder}"
            )
    os.chdir(working_folder)
    share.apply()
    wait_until_free(run.workdir, _LOCK_SECONDS)
    return train_in_process(run.config, run.log)


def _load_end(task: Any) -> tuple[str, bool]:
    """How the run of a task ended, and whether that is because its node failed."""
    import ray

    try:
        return ray.get(task), False
    except ray.exceptions.RayTaskError as error:
        raise explain(error) from None
    except ray.exceptions.RayError as error:
        return describe(error), True
