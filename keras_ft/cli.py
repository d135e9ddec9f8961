"""The command line: read the flags, pick a mode, one call each.

TensorFlow is imported inside the modes, after everything that can be checked
without it, so that help and mistakes are answered at once.
"""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_ft import api
from keras_ft.config import flags
from keras_ft.config.schema import Config
from keras_ft.data.dataset import load_dataset, load_images, load_test
from keras_ft.data.examples import Examples
from keras_ft.data.sources import SPLITS_CSV
from keras_ft.errors import UserError
from keras_ft.report import terminal as report
from keras_ft.runs import workdir
from keras_ft.system import runtime, signals

log = logging.getLogger("keras_ft")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Args:
        argv: The program's name and flags; default `sys.argv`.

    Returns:
        The exit status: 0, or 1 after a mistake that the user can mend.
    """
    runtime.prepare()
    try:
        with signals.stoppable():
            config = flags.parse(sys.argv if argv is None else argv)
            if config is None:
                print(flags.help_text())
            else:
                _MODES[config.run.mode](config)
    except UserError as error:
        print(runtime.printable(f"keras_ft: {error}"), file=sys.stderr)
        return 1
    return 0


def _train(config: Config) -> None:
    metrics = api.fine_tune(config)
    print(runtime.printable(report.summarize_run(metrics, config.run.workdir)))
    accuracy = metrics["test"]["accuracy"]
    asked = config.selection.assert_accuracy_at_least
    if accuracy < asked:
        raise UserError(
            f"--assert_accuracy_at_least={asked:g} on test must hold. "
            f"Received: {accuracy:.4f}; the model is not for use"
        )
    if metrics["export_difference"] is None:
        log.info("An earlier run asked for more accuracy; --mode=export exports now.")


def _check(config: Config) -> None:
    output = _audit_file(config)
    source = load_dataset(config.data)
    runtime.import_tensorflow()
    from keras_ft.audit import audit

    source = audit.look_closer(source, Path(config.data.cache_dir).expanduser())
    examples, obstacle = audit.split_as_training_would(source, config)
    findings = audit.find_all(examples, source)
    print(runtime.printable(audit.summarize_check(examples, findings, obstacle)))
    if output:
        workdir.write_audit(output, findings)
        log.info("Wrote %d findings to %s.", len(findings), output)


def _audit_file(config: Config) -> Path | None:
    """Where --mode=check writes; its own audit.csv in a workdir is renewed."""
    if config.apply.output:
        workdir.check_output(config.apply.output, config.run.overwrite)
        return Path(config.apply.output)
    folder = Path(config.run.workdir)
    if not config.run.workdir or (folder / "run.json").exists():
        log.info("--output=FILE writes all findings.")  # a run keeps its own
        return None
    with workdir.writing():
        folder.mkdir(parents=True, exist_ok=True)
    return folder / "audit.csv"


def _evaluate(config: Config) -> None:
    model = _check_files(config)
    test = workdir.leave_out_seen(load_test(config.data), model)
    runtime.import_tensorflow()
    from keras_ft.serving.predict import evaluate

    metrics = evaluate(config, model, test)
    print(runtime.printable(report.summarize_split(metrics)))


def _predict(config: Config) -> None:
    model = _check_files(config)
    images = load_images(config.data)
    runtime.import_tensorflow()
    from keras_ft.serving.predict import predict

    predict(config, model, images)


def _check_files(config: Config) -> Path:
    """Finds the model, and checks that the output can be written."""
    workdir.check_output(config.apply.output, config.run.overwrite)
    return workdir.find_model(Path(config.apply.model or config.run.workdir))


def _export(config: Config) -> None:
    folder = Path(config.run.workdir)
    of_run = workdir.load_config(folder)
    images = _images_to_check(folder, of_run)
    runtime.import_tensorflow()
    from keras_ft.serving.export import export_again

    print(export_again(folder, images, of_run.data.batch_size))


def _compare(config: Config) -> None:
    from keras_ft.compare.compare import compare  # SciPy's statistics take their time

    print(runtime.printable(compare(config)))


def _images_to_check(folder: Path, of_run: Config) -> Examples:
    """Images on which a new export is compared with the model of a run: its test."""
    try:
        data = dataclasses.replace(of_run.data, data=str(folder / SPLITS_CSV))
        source = load_dataset(data)
        test = source.examples.take(
            (source.examples.splits == "test") & (source.facts["problem"] == 0)
        )
        if len(test):
            return test
        reason = "are gone"
    except UserError as error:
        reason = str(error)
    log.warning("The check uses builtin:faces, since the run's images: %s", reason)
    return load_test(dataclasses.replace(of_run.data, data="builtin:faces"))


_MODES = {
    "train": _train,
    "check": _check,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "compare": _compare,
}
