"""The best epoch so far of a run that has not finished."""

import dataclasses

import keras

from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.runs.run import Run
from keras_ft.training.best import judge, recall, restore_best, select_best
from keras_ft.training.checkpoint import load_checkpoint
from keras_ft.training.phase_result import PhaseResult
from keras_ft.training.phases import train_phase


def recall_best(run: Run, examples: Examples, classifier: keras.Model) -> PhaseResult:
    """The result of the best phase so far; nothing is trained.

    The classifier gets the weights of the best epoch. A phase in progress is ended at
    its newest checkpoint, without writing that down, so that the run can be resumed.

    Raises:
        UserError: No epoch has a checkpoint.
    """
    results: list[PhaseResult] = []
    for phase in run.phases:
        result = recall(run, phase, results, examples, classifier)
        if result is None:
            saved = load_checkpoint(run.paths.checkpoints, phase.name)
            if saved is None:
                break
            if not saved.state["stopped"]:
                phase = dataclasses.replace(phase, epochs=saved.epoch)
            with run.compute.scope():
                result = train_phase(run, phase, results, examples, classifier)
            result = judge(run, result, results, examples)
        results.append(result)
    if not results:
        raise UserError(
            "--mode=export needs a run that has finished an epoch. Received: "
            f"{run.paths.folder} without a checkpoint"
        )
    restore_best(run, results, classifier)
    return select_best(results)
