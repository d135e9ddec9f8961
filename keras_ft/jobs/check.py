"""`--mode=check`: what is wrong with the data, before anything is trained."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from keras_ft.catalog.backbones import find_backbone
from keras_ft.catalog.preference import default_weights, describe_image_size
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_dataset
from keras_ft.data.examples import Examples, Finding
from keras_ft.data.pixel_limit import with_pixel_limit
from keras_ft.errors import UserError
from keras_ft.host import jpeg_lines
from keras_ft.host.files import writing
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.text import counted
from keras_ft.runs.find_model import check_output
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.split_tables import write_audit

log = logging.getLogger("keras_ft")

_PAGE = ".html"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        examples: In the splits that training would use.
        findings: Those of single files first.
        obstacle: What would keep training from starting, if anything.
        image_size: What `--image_size` is, such as `96x128`, by weights if it depends.
    """

    examples: Examples
    findings: Sequence[Finding]
    obstacle: UserError | None
    image_size: str

    def __repr__(self) -> str:
        images = counted(len(self.examples), "image")
        findings = counted(len(self.findings), "finding")
        return f"CheckResult({images}, {findings}, obstacle={self.obstacle!r:.200})"


@with_pixel_limit
def check(config: Config) -> CheckResult:
    """Decodes every image and looks for problems.

    They are written to `output`, or to a workdir without a run, and a page about them
    to a file of the same name that ends in .html.

    Raises:
        UserError: The data can't be read, or the output can't be written.
    """
    config = config.replace(mode="check")
    output = _find_output(config)
    dataset = load_dataset(config.data)
    import_tensorflow()
    from keras_ft.audit.audit import find_all
    from keras_ft.audit.decoding import decode_images
    from keras_ft.audit.split_findings import split_as_training_would

    dataset = decode_images(dataset, Path(config.data.cache_dir))
    examples, obstacle = split_as_training_would(dataset, config.data, config.run.seed)
    findings = find_all(examples, dataset)
    result = CheckResult(examples, findings, obstacle, _describe_image_size(config))
    if output:
        _write(output, config.data.data, result)
    return result


def _write(output: Path, data: str, result: CheckResult) -> None:
    from keras_ft.report.check_page import write_page

    write_audit(output, result.findings)
    found = result.examples, result.findings, result.obstacle
    with jpeg_lines.caught():  # they are findings
        write_page(output, data, *found, result.image_size)
    number = counted(len(result.findings), "finding")
    log.info("Wrote %s to %s and %s.", number, output, output.with_suffix(_PAGE))


def _describe_image_size(config: Config) -> str:
    name, weights = config.model.backbone, config.model.weights
    if config.data.image_size:
        return str(config.data.image_size)
    if not find_backbone(name).image_size:  # it must be given
        return ""
    return describe_image_size(name, weights or default_weights(name))


def _find_output(config: Config) -> Path | None:
    """Where to write; an audit.csv of this mode in a workdir is replaced."""
    if config.apply.output:
        check_output(config.apply.output, config.run.overwrite, beside=[_PAGE])
        return Path(config.apply.output)
    paths = RunPaths(config.run.workdir)
    if not config.run.workdir or paths.record.exists():  # a run keeps its own
        log.info("--output=FILE.csv writes all findings, and a page to FILE.html.")
        return None
    with writing():
        paths.folder.mkdir(parents=True, exist_ok=True)
    return paths.audit
