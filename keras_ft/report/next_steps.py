"""What to do after a run: suggestions that its results support, each with a command."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.stats

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.catalog.preference import UnusableWeights, find_image_size
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.errors import UserError
from keras_ft.host.text import counted
from keras_ft.kinds.task import is_plain
from keras_ft.report.steps import Results, Step, join

# Maximum number of suggestions besides how to use the model.
_SHOWN = 3
# Fewer confusions of one kind may be chance.
_MIN_CONFUSED = 3
# A smaller difference between the accuracies on train and val may be chance.
_MIN_GAP = 0.02
# The width of a confidence interval of the test accuracy that tells few runs apart.
_WIDE = 0.15
# Smallest number of images per class in a learning curve.
_MIN_PER_CLASS = 4
# Files of cameras, and the share of files of which the others are exceptions.
_PHOTOGRAPHS, _MOST = (".jpg", ".jpeg", ".heic"), 0.9

# Backbones for which --weights=auto finds pretrained ones.
_PUBLISHED = set(BACKBONES) - {"tiny"}


def suggest(results: Results) -> list[Step]:
    """Suggests two to five steps, those that promise most first."""
    found = [step for rule in _RULES if (step := rule(results))]
    # Two rules may lead to the same command: the first one says why.
    unique = {step.command: step for step in reversed(found)}
    shown = [step for step in found if unique[step.command] is step]
    return [*shown[:_SHOWN], *_use(results)]


def _check_data(results: Results) -> Step | None:
    counts = results.metrics["audit"]
    leaks = counts.get("leak", 0) + counts.get("near_leak", 0)
    conflicts = counts.get("conflict", 0) + counts.get("near_conflict", 0)
    if leaks:
        text = (
            f"{_findings(leaks)} that an image of val or test is, or looks like, one "
            "of another split; so the results may be too good. List them, and keep "
            "such images in one split."
        )
    elif conflicts:
        text = (
            f"{_findings(conflicts)} that images which look alike have different "
            "labels. List them, and correct the wrong ones."
        )
    elif counts.get("not_searched"):
        text = (
            "Training skips the search for near duplicates in sets of this size. This "
            "command runs it."
        )
    else:
        return None
    return Step(text, results.command(mode="check", output="findings.csv"))


def _findings(count: int) -> str:
    return f"{counted(count, 'finding')} of the audit {'says' if count == 1 else 'say'}"


def _begin_again(results: Results) -> Step | None:
    """About a model that has learned hardly anything."""
    if not results.is_useless:
        return None
    text = (
        "The model may be no better than always answering the class that is most "
        "frequent in test."
    )
    weights, backbone = results.run.record.weights, results.run.recipe.model.backbone
    if weights.used == "none" and backbone in _PUBLISHED:
        text += " It began with random weights; pretrained ones need far fewer images."
        again = results.command("pretrained", weights="auto", head_epochs=None)
        return Step(text, again)
    text += " Look for what is wrong with the data."
    return Step(text, results.command(mode="check", output="findings.csv"))


def _use_better_weights(results: Results) -> Step | None:
    weights = results.run.record.weights
    missing = [a for a in weights.attempts if a["weights"] == "imagenet"]
    if weights.used != "starter" or not missing or not _has_errors(results):
        return None
    text = (
        "The network began with the starter weights, which are weak, since those of "
        "ImageNet were not available (see Run below). Put their file where "
        "docs/install.md says, and train again."
    )
    again = results.command("imagenet", weights="imagenet", image_size="auto")
    return Step(text, again)


def _measure_more(results: Results) -> Step | None:
    if not is_plain(results.dataset.examples.tasks) or results.is_useless:
        return None
    [of_task] = results.tasks.values()
    low, high = of_task["test"]["accuracy_interval"]
    if high - low < _WIDE:
        return None
    images = counted(results.metrics["num_examples"]["test"], "test image")
    text = (
        f"{images} can't tell runs apart: the accuracy is between {100 * low:.0f} and "
        f"{100 * high:.0f} %, with 95 % confidence. Measure on more labelled images; "
        "MORE_IMAGES has one folder per class."
    )
    model = f"--model={results.run.paths.folder}"
    more = ("--data=MORE_IMAGES", "--output=evaluation.json")
    return Step(text, join("--mode=evaluate", model, *more))


def _enlarge_images(results: Results) -> Step | None:
    recipe, item = results.run.recipe, results.run.record.weights.used
    size, trained = recipe.data.preprocessing.size, None
    if item not in ("none", "starter"):  # the starter's own size is no better one
        with contextlib.suppress(UnusableWeights, UserError, ValueError):
            trained = find_image_size(recipe.model.backbone, item)
    if not trained or not _is_smaller(size, trained) or not _has_errors(results):
        return None
    facts = results.dataset.facts
    larger = (facts["width"] > size.width) & (facts["height"] > size.height)
    if np.mean(larger) < 0.5:
        return None
    factor = trained.height * trained.width / (size.height * size.width)
    text = (
        f"The network sees {size} px of images most of which have more, and its "
        f"weights were trained on {trained} px. Larger images show more detail; an "
        f"epoch takes about {factor:.2g} times as long."
    )
    return Step(text, results.command(f"{trained}px", image_size=trained))


def _is_smaller(size: ImageSize, other: ImageSize) -> bool:
    return size.height < other.height and size.width < other.width


def _has_errors(results: Results) -> bool:
    return results.metrics["test"]["accuracy"] < 1


def _label_more(results: Results) -> Step | None:
    """About the class of which the most are missed, if it is rare in train."""
    weak = [
        (row["recall"], name, task_name, row["support"])
        for task_name, of_task in results.tasks.items()
        for name, row in of_task["test"]["per_class"].items()
        if row["support"] and _is_weak(row, of_task["test"])
    ]
    for recall, name, task_name, support in sorted(weak):
        examples = results.dataset.examples.by_task[task_name]
        counts = examples.train.count_classes()
        count = int(counts[examples.class_names.index(name)])
        median = int(np.median(counts))
        if count < median:
            text = (
                f"Of {counted(support, 'test image')} of {name}, "
                f"{round(recall * support)} are recognised, and it has only "
                f"{counted(count, 'training image')}; the median of the classes is "
                f"{median}. Label more of it, and train again."
            )
            return Step(text, results.command("more"))
    return None


def _is_weak(row: Mapping[str, Any], test: Mapping[str, Any]) -> bool:
    """Whether the recall of a class is below the mean of all by more than chance."""
    recalls = [r["recall"] for r in test["per_class"].values() if r["support"]]
    found = round(row["recall"] * row["support"])
    chance = scipy.stats.binom.cdf(found, row["support"], np.mean(recalls))
    return bool(chance < 0.05 / len(recalls))  # Bonferroni


def _draw_learning_curve(results: Results) -> Step | None:
    phase: Mapping[str, Any] = results.metrics["phases"].get("finetune", {})
    gain, error = phase.get("gain"), phase.get("standard_error")
    if gain is None or error is None or gain > error:
        return None
    examples = results.dataset.examples
    if results.run.recipe.data.examples_per_class or not is_plain(examples.tasks):
        return None
    count = int(np.median(examples.train.count_classes()))
    if count // 4 < _MIN_PER_CLASS or not _has_errors(results):
        return None
    text = (
        "On val, phase finetune is not better than the head alone by more than the "
        "noise. So more labels may matter more than other settings; a learning curve "
        "of the head estimates how much."
    )
    values = f"examples_per_class={count // 4}|{count // 2}|{count}"
    flags = {"mode": "compare", "unfreeze": "none", "sweep": values}
    return Step(text, results.command("curve", **flags))


def _separate(results: Results) -> Step | None:
    """About the pair of classes that is confused most."""
    if not is_plain(results.dataset.examples.tasks) or results.is_useless:
        return None
    [of_task] = results.tasks.values()
    names, test = of_task["class_names"], of_task["test"]
    counts = np.array(test["confusion_matrix"])
    np.fill_diagonal(counts, 0)
    label, prediction = np.unravel_index(counts.argmax(), counts.shape)
    count = int(counts[label, prediction])
    if len(names) < 3 or count < _MIN_CONFUSED:
        return None
    support = test["per_class"][names[label]]["support"]
    text = (
        f"The most frequent confusion: {count} of {counted(support, 'test image')} of "
        f"{names[label]} are taken for {names[prediction]}. Check their labels; a "
        "model of these two classes shows whether they can be told apart."
    )
    pair = tuple(sorted((names[label], names[prediction])))
    return Step(text, results.command("pair", classes=pair))


def _mirror(results: Results) -> Step | None:
    data, best = results.run.recipe.data, results.metrics["best_phase"]
    in_train = results.dataset.examples.splits == "train"
    files = results.dataset.originals[in_train]
    photographs = [file.lower().endswith(_PHOTOGRAPHS) for file in files]
    can_mirror = data.augment in ("light", "strong") and not data.mirror
    if not can_mirror or np.mean(photographs) < _MOST:
        return None
    # What a frozen part sees is not augmented, unless --feature_views asks for it.
    trains_all = results.run.recipe.train.unfreeze.startswith(("all", "to:"))
    row = results.find_row(best, results.metrics["best_epoch"])
    if best != "finetune" or not trains_all or row is None:
        return None
    train, val = float(row["accuracy"]), float(row["val_accuracy"])
    if train - val < _MIN_GAP:
        return None
    text = (
        f"In the best epoch the accuracy is {train:.3f} on train and {val:.3f} on val, "
        "and no training image was mirrored. If your photographs mean the same "
        "mirrored, as those with writing do not, try it: it helps against overfitting."
    )
    return Step(text, results.command("mirrored", mirror=True))


def _use(results: Results) -> Iterator[Step]:
    model = f"--model={results.run.paths.folder}"
    yield Step(
        "Classify images of your own. NEW_IMAGES is a folder or a file.",
        join("--mode=predict", model, "--data=NEW_IMAGES", "--output=answers.csv"),
    )
    if results.metrics["exports"] and not results.is_useless:
        yield Step(
            "Try it in a browser and serve it over HTTP, which needs the extra serve.",
            join("--mode=serve", model),
        )


# The first ones promise most.
_RULES: tuple[Callable[[Results], Step | None], ...] = (
    _check_data,
    _begin_again,
    _use_better_weights,
    _measure_more,
    _enlarge_images,
    _label_more,
    _draw_learning_curve,
    _separate,
    _mirror,
)
