"""`--mode=compare`: trains every setting of a sweep and ranks the settings."""

import contextlib
import dataclasses
import logging
import os
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_ft.catalog.clusters import CLUSTERS
from keras_ft.catalog.formats import check_installed
from keras_ft.comparison import compare_folder, processes
from keras_ft.comparison.by_task import unite_columns
from keras_ft.comparison.ranking import Result
from keras_ft.comparison.summary import Comparison, make_comparison, to_json
from keras_ft.comparison.sweep import Run, plan_runs
from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_dataset, make_splits
from keras_ft.data.examples import Dataset
from keras_ft.data.pixel_limit import with_pixel_limit
from keras_ft.data.splits import are_drawn
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.host.startup import import_tensorflow
from keras_ft.runs.lock import locked
from keras_ft.runs.overwrite import remove_previous

log = logging.getLogger("keras_ft")


@with_pixel_limit
def compare(config: Config) -> Comparison:
    """Trains every setting with every seed, and ranks the settings.

    Finished runs are not repeated. A run that fails does not stop the others.

    Raises:
        UserError: The sweep, the data or the workdir can't be used, or no run
            finished.
    """
    config = config.replace(mode="compare")
    runs = plan_runs(config)
    for run in runs:
        check_installed(run.config.export.export_formats)
    folder = Path(config.run.workdir)
    with locked(folder):
        data = _unite_data(config, runs)
        with _hidden_gpus():
            if compare_folder.can_resume(config, folder):
                compare_folder.check_images(folder, data)
            else:
                dataset = _assign_splits(load_dataset(data), data, config.run.seed)
                compare_folder.begin(config, folder, dataset)
        runs = compare_folder.find_existing(runs, folder)
        results = [compare_folder.load_result(run) for run in runs]
        log.info("Runs: %d, %d of them finished.", len(runs), _count_done(results))
        comparison = make_comparison(config, results)
        _write(comparison, folder)
        to_do = [
            run
            for run, result in zip(runs, results, strict=True)
            if result.metrics is None
        ]
        if to_do and config.cluster.address:
            run_all = pkgutil.resolve_name(CLUSTERS[config.cluster.kind].train)
            training = run_all(to_do, config)
        else:
            training = processes.run_all(to_do)
        with contextlib.closing(training) as ended:
            for run, error in ended:
                i = runs.index(run)
                results[i] = compare_folder.load_result(run, error)
                _log_progress(results[i], results, config.selection.monitor)
                # A comparison that is stopped leaves the results so far.
                comparison = make_comparison(config, results)
                _write(comparison, folder)
    if not comparison.has_finished:
        error, log_file = results[0].error, runs[0].log
        raise UserError(
            f"No run has finished. The first one failed: {error} ({log_file})"
        )
    return comparison


def _unite_data(config: Config, runs: Sequence[Run]) -> DataConfig:
    """The data of all runs."""
    return dataclasses.replace(
        config.data,
        # Each run takes its own examples per class, drawn by its seed.
        examples_per_class=0,
        label_columns=unite_columns([run.config.data.label_columns for run in runs]),
    )


def _assign_splits(dataset: Dataset, data: DataConfig, seed: int) -> Dataset:
    """Assigns splits as a training would; mistakes end it before it decodes images."""
    examples = make_splits(dataset, data, seed)
    if not are_drawn(dataset.examples.splits):
        return dataclasses.replace(dataset, examples=examples)
    import_tensorflow()
    from keras_ft.audit.audit import decode_and_split

    return decode_and_split(dataset, data, seed)


@contextlib.contextmanager
def _hidden_gpus() -> Iterator[None]:
    """Hides the GPUs from TensorFlow in this process; the runs need all of them."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = "-1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _write(comparison: Comparison, folder: Path) -> None:
    """Writes compare.json and compare.html."""
    from keras_ft.comparison import compare_page

    with files.writing():
        files.write_json(folder / "compare.json", to_json(comparison))
        files.write_text(folder / "compare.html", compare_page.render(comparison))
    if comparison.has_finished:  # from now on it replaces what --overwrite moved aside
        remove_previous(folder)


def _log_progress(result: Result, results: Sequence[Result], name: str) -> None:
    count = f"{_count_done(results)}/{len(results)}"
    if result.metrics is None:
        log.info("%s %s failed: %s", count, result.name, result.error)
        return
    value = MONITORS[name].format(MONITORS[name].of(result.metrics))
    seconds = result.metrics["seconds"]["total"]
    log.info("%s %s: %s %s, %.0f s", count, result.name, name, value, seconds)


def _count_done(results: Sequence[Result]) -> int:
    return sum(result.state != "to do" for result in results)
