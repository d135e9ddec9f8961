"""The results of `--mode=evaluate` -> one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.data.examples import Examples
from keras_ft.data.facts_cache import load_header_facts
from keras_ft.data.to_png import convert_images
from keras_ft.host import files
from keras_ft.kinds.task import is_plain
from keras_ft.report import classes, gallery, page
from keras_ft.report.mistakes import Measured

# Maximum number of wrong images, of all tasks together unless these are many.
_SHOWN, _AT_LEAST = 48, 6


def write_page(
    path: Path,
    table: Path,
    config: Config,
    metrics: Any,
    measured: Sequence[Measured],
    network: keras.Model | None,
    preprocessing: Preprocessing | None,
) -> None:
    """Writes the page, which begins with the accuracy.

    Args:
        path: The file.
        table: Of all mistakes, which lies beside it.
        config: What was requested.
        metrics: What `evaluate` returns.
        measured: The answers to each task.
        network: For heatmaps, with its preprocessing; None if it has no gradients.
        preprocessing: How images become its input.
    """
    most = max(_AT_LEAST, _SHOWN // len(measured))
    tasks = []
    for of_task in measured:
        task, mistakes = of_task.task, of_task.find_mistakes()
        shown = mistakes[:most]
        images = _convert(of_task.examples.take(shown), Path(config.data.cache_dir))
        answers = of_task.probabilities[shown]
        cards = gallery.make_cards(network, task, images, answers, preprocessing)
        tasks.append(
            {
                "task": task,
                "metrics": of_task.metrics,
                "count": len(of_task.examples),
                "num_mistakes": len(mistakes),
                "cards": cards,
                **classes.describe_classes(of_task.metrics, task.class_names),
            }
        )
    html = page.render(
        "evaluation.html",
        metrics=metrics,
        plain=is_plain([of_task.task for of_task in measured]),
        tasks=tasks,
        model=config.apply.model or config.run.workdir,
        data=config.data.data,
        table=table.name,
    )
    files.write_text(path, html)


def _convert(examples: Examples, cache_dir: Path) -> Examples:
    """The examples with files that TensorFlow can decode."""
    facts = load_header_facts(examples.files, cache_dir)
    return convert_images(examples, facts, cache_dir)[0]
