"""The best phase so far: model.keras, and what a resumed run recalls."""

import dataclasses
import logging
import zipfile
from collections.abc import Sequence

import keras

from keras_ft.catalog.backbones import find_backbone
from keras_ft.config.recipe import Phase
from keras_ft.data.examples import Examples
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.models.classifier import get_backbone, set_trainable
from keras_ft.models.heads import set_temperatures
from keras_ft.models.trained import describe_network, load_trained
from keras_ft.runs.overwrite import remove_previous
from keras_ft.runs.run import Run
from keras_ft.serving.model_files import write_model
from keras_ft.training import phase_result
from keras_ft.training.early_stopping import Diverged
from keras_ft.training.gain import compare
from keras_ft.training.phase_result import PhaseResult

log = logging.getLogger("keras_ft")

Results = Sequence[PhaseResult]


def select_best(results: Results) -> PhaseResult:
    """The last phase that replaced those before it."""
    return [result for result in results if result.is_chosen][-1]


def judge(
    run: Run, result: PhaseResult, earlier: Results, examples: Examples
) -> PhaseResult:
    """The result with its gain over the best of the phases before it, if any."""
    if not earlier:
        return result
    monitor = MONITORS[run.recipe.selection.monitor]
    weights = run.recipe.train.weigh(task.name for task in examples.tasks)
    return compare(result, select_best(earlier), examples.val, monitor, weights)


def keep(run: Run, result: PhaseResult, classifier: keras.Model) -> None:
    """Writes the result of a phase, and model.keras if it is the best so far."""
    if not run.compute.team.is_chief:
        return
    if result.is_chosen:
        with run.timer.measure("export"):
            # What was trained last is in the file, too, and another run may differ.
            backbone = get_backbone(classifier)
            set_trainable(backbone, find_backbone(backbone.name).stage_names, "fixed")
            model = calibrate_model(classifier, result)
            preprocessing = run.recipe.data.preprocessing
            origin = run.record.weights.origin
            description = describe_network(model, result.tasks, preprocessing, origin)
            write_model(model, description, run.paths.model)
        remove_previous(run.paths.folder)
    phase_result.write_result(run.paths, result)


def recall(
    run: Run,
    phase: Phase,
    earlier: Results,
    examples: Examples,
    classifier: keras.Model,
) -> PhaseResult | None:
    """The result of a phase that an unfinished run has trained; None if it has not.

    If it is the best so far, the classifier gets its weights. If it has to be trained
    again, the results of later phases are removed: they began with another model.
    """
    result = phase_result.load_result(run.paths, phase.name, examples.val)
    if result and result.gain is None:  # an earlier version did not compare
        result = judge(run, result, earlier, examples)
    if result and result.is_chosen:
        try:
            _load_weights(run, classifier)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning(
                "%s is damaged (%s): phase %s repeats.",
                run.paths.model,
                error,
                phase.name,
            )
            result = None
    run.compute.team.check_same({f"result of phase {phase.name}": bool(result)})
    if result is None and run.compute.team.is_chief:
        for later in run.phases[run.phases.index(phase) :]:
            phase_result.remove_result(run.paths, later.name)
    return result


def restore_best(run: Run, results: Results, classifier: keras.Model) -> None:
    """Gives the classifier of the chief the weights of the best phase."""
    best = select_best(results)
    if best is not results[-1] and run.compute.team.is_chief:
        _load_weights(run, classifier)


def fall_back(
    run: Run, results: Results, classifier: keras.Model, error: Diverged
) -> list[PhaseResult]:
    """The results of the phases before one that has diverged; raises if there is none.

    The classifier of the chief gets the weights of the best of them.
    """
    if not results:
        raise error
    sentence = f"{error} The model is that of the phase before."
    log.warning(sentence)
    if run.compute.team.is_chief:
        _load_weights(run, classifier)
    *earlier, last = results
    both = " ".join(filter(None, (last.diverged, sentence)))
    return [*earlier, dataclasses.replace(last, diverged=both)]


def calibrate_model(classifier: keras.Model, result: PhaseResult) -> keras.Model:
    """The model whose probabilities are the calibrated ones; it shares layers."""
    temperatures = {name: c.temperature for name, c in result.calibrated.items()}
    return set_temperatures(classifier, result.tasks, temperatures)


def _load_weights(run: Run, classifier: keras.Model) -> None:
    """Gives a classifier the weights of model.keras."""
    classifier.set_weights(load_trained(run.paths.model)[0].get_weights())
