"""`--mode=compare --quick`: ranks the networks of a sweep before any is trained.

Uses the folder and splits of the comparison (see compare.py), writes quick.json there,
and says how far its order agrees with the runs that are there already.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft import audit, compare, compare_report, files, quick, workdir
from keras_ft.config import Config, UserError
from keras_ft.data import Splits, load_source, make_splits
from keras_ft.sweep import Run
from keras_ft.transferability import agreement

NAME = "quick.json"


def compare_quickly(config: Config, runs: Sequence[Run]) -> str:
    """Scores each network of a sweep, see `quick.score`, and trains nothing.

    Args:
        config: Flags of the comparison.
        runs: Its runs, of `plan_runs`.

    Returns:
        The summary for the terminal; its last line names the best network.

    Raises:
        UserError: The data or the workdir can't be used, or no network can.
    """
    folder = Path(config.run.workdir)
    with workdir.locked(folder):
        compare.begin(config, folder)
        accuracies = _load_accuracies(runs, folder)
        networks = [run.config for run in runs]
        rows = quick.rank(networks, _make_splits(networks[0]))
        rows = [row | {"val_accuracy": accuracies.get(_key(row))} for row in rows]
        content = {"networks": rows, "kendall_tau": _agreement(rows)}
        with workdir.writing():
            files.write_json(folder / NAME, content)
    if "error" in rows[0]:
        raise UserError(f"No network can be scored. The first one: {rows[0]['error']}")
    return "\n".join(_summarize(folder, **content))


def _make_splits(config: Config) -> Splits:
    """The splits of a run, without images that would end it."""
    source = load_source(config.data)
    cache_dir = Path(config.data.cache_dir).expanduser()
    source = audit.look_closer(source, cache_dir, audit.CHEAP)
    return make_splits(source, config.data, config.run.seed)


def _load_accuracies(runs: Sequence[Run], folder: Path) -> dict[tuple, float]:
    """Accuracy on val by network, the mean of its finished runs."""
    found = {}
    for run, result in zip(runs, compare.load_results(runs, folder), strict=True):
        if result.metrics:
            of_network = found.setdefault(_key(quick.describe(run.config)), [])
            of_network.append(result.metrics["val"]["accuracy"])
    return {key: float(np.mean(values)) for key, values in found.items()}


def _key(row: dict[str, Any]) -> tuple:
    return row["backbone"], row["weights"], row["image_size"]


def _agreement(rows: Sequence[dict[str, Any]]) -> float | None:
    known = [row for row in rows if "log_me" in row and row["val_accuracy"] is not None]
    return agreement(
        [row["log_me"] for row in known], [row["val_accuracy"] for row in known]
    )


def _summarize(
    folder: Path, networks: Sequence[dict[str, Any]], kendall_tau: float | None
) -> Iterator[str]:
    scored = [row for row in networks if "log_me" in row]
    yield ""
    yield from compare_report.format_table(_make_table(scored), 3)
    yield ""
    for row in networks[len(scored) :]:
        # Of an error with several lines the first one says what is wrong.
        reason = row["error"].partition("\n")[0]
        yield f"Left out        {', '.join(map(str, _key(row)))}: {reason}"
    if kendall_tau is not None:
        yield (
            f"Agreement       Kendall's tau {kendall_tau:.2f} between LogME and the "
            "val accuracy of finished runs"
        )
    yield (
        f"Scored on       {scored[0]['num_examples']} train images, nothing was "
        f"trained; all in {folder / NAME}"
    )
    best = scored[0]
    yield (
        f"Best by LogME   {best['backbone']}, weights {best['weights']}, "
        f"{best['image_size']} px. Train the first few to be sure: --mode=compare "
        "without --quick"
    )


def _make_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of cells, of which the first one is the header."""
    header = ["backbone", "weights", "image_size", "LogME", "1-NN acc.", "seconds"]
    cells = [
        [
            row["backbone"],
            row["weights"],
            str(row["image_size"]),
            f"{row['log_me']:.4f}",
            f"{row['nearest_neighbour_accuracy']:.3f}",
            f"{row['seconds']:.0f}",
            _show_accuracy(row["val_accuracy"]),
        ]
        for row in rows
    ]
    return [[*header, "val acc."], *cells]


def _show_accuracy(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.3f}"
