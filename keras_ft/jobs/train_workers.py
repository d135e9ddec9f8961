"""The steps of the main job that concern several workers."""

import logging
from collections.abc import Sequence

from keras_ft.config import flags
from keras_ft.config.recipe import Recipe
from keras_ft.data.examples import Examples, Finding
from keras_ft.errors import UserError
from keras_ft.host import files, onednn
from keras_ft.jobs.train_steps import package_versions
from keras_ft.runs import workdir
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.runs.split_tables import split_rows
from keras_ft.system import collectives
from keras_ft.system.agreement import check_same, check_shared, wait_for
from keras_ft.system.devices import Compute

log = logging.getLogger("keras_ft")


def begin(
    config: Recipe,
    examples: Examples,
    findings: Sequence[Finding],
    record: RunRecord,
    unfinished: RunRecord | None,
    compute: Compute,
) -> RunPaths:
    """Begins or resumes the run in the workdir, see `workdir.begin_or_resume`.

    Raises:
        UserError: As there, or workers do not share the workdir, or differ, or are
            more than the images.
    """
    paths = RunPaths(config.run.workdir)
    fewest = min(len(examples.train), len(examples.val))
    if fewest < compute.workers.count:
        raise UserError(
            "train and val must have an image for each worker. Received: "
            f"{fewest} images, {compute.workers.count} workers"
        )
    with compute.strategy.scope():
        check_shared(paths.folder, "--workdir")
        check_same(
            {
                "flags": flags.shared_arguments(config.config),
                "images, labels and splits": [*map(list, split_rows(examples))],
                "weights": [record.weights.used, record.weights.sha256],
                "precision": compute.precision,
                "choice of oneDNN": onednn.is_on(),
                "versions of packages": package_versions(),
                "run to resume": unfinished is not None,
            }
        )
        if compute.workers.is_chief:
            workdir.begin_or_resume(
                config.config, examples, findings, record, unfinished
            )
        collectives.wait()
    return paths


def wait_for_chief(paths: RunPaths, compute: Compute) -> RunMetrics:
    """Waits until the chief has finished the run; returns its metrics."""
    log.info("The phases are trained. Waits for worker 0, which finishes the run.")
    collectives.part(compute.strategy)
    wait_for(paths.metrics)
    return files.read_json(paths.metrics)
