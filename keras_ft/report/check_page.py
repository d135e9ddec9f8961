"""The findings of `--mode=check` -> one self-contained HTML page."""

import collections
from collections.abc import Sequence
from pathlib import Path

from keras_ft.audit.findings import warn_of_leaks
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.report import classes, finding_cards, page
from keras_ft.runs.split_tables import LEFT_OUT


def write_page(
    table: Path,
    data: str,
    examples: Examples,
    findings: Sequence[Finding],
    obstacle: UserError | None,
    image_size: str,
) -> None:
    """Writes the page: images by class and split, and findings by kind.

    It lies beside the table of all findings, and its name ends in .html. For the other
    arguments see `CheckResult`.
    """
    splits = collections.Counter(examples.splits)
    html = page.render(
        "check.html",
        data=data,
        num_images=len(examples),
        splits={n: splits[n] for n in (*SPLIT_NAMES, *LEFT_OUT) if splits[n]},
        tasks=[
            {"task": of_task.task, "data": classes.count_by_split(of_task)}
            for of_task in examples.by_task.values()
        ],
        num_findings=len(findings),
        kinds=finding_cards.group(findings, examples),
        warnings=warn_of_leaks(examples, findings),
        obstacle=str(obstacle or ""),
        image_size=image_size,
        table=table.name,
    )
    files.write_text(table.with_suffix(".html"), html)
