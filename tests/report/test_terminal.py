import numpy as np
import pytest
from helpers import export_result, make_examples
from report_helpers import make_metrics, predict

from keras_ft.data.examples import Finding
from keras_ft.errors import UserError
from keras_ft.report import terminal


@pytest.fixture
def examples():
    """Two images of each class and split."""
    labels = np.tile([0, 1], 6)
    splits = np.repeat(["train", "val", "test"], 4).astype(object)
    paths = [f"{i}.png" for i in range(12)]
    made = make_examples(paths, labels=labels, class_names=("cat", "dog"))
    return made.with_splits(splits)


@pytest.fixture
def metrics(examples):
    return make_metrics(examples, predict(examples.test, wrong=[0]))


def line_of(summary, label):
    [line] = (line for line in summary.splitlines() if line.startswith(label))
    return line.removeprefix(label).strip()


def test_a_run_is_summarized(metrics, tmp_path):
    metrics["num_examples"] |= {"skipped": 2}
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "Data") == (
        "9 train, 9 val, 4 test images (2 skipped); 2 classes: cat, dog"
    )
    assert line_of(summary, "Weights") == "starter"
    metrics["weights_used"] = "runs/mine"
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "Weights") == "runs/mine, from starter"
    assert "imagenet not used: no <network>" in summary
    assert line_of(summary, "Best model") == "phase finetune, epoch 1 (by val_loss)"
    assert line_of(summary, "  head").split()[2] == "0.750"
    assert line_of(summary, "  dog").split() == ["0.667", "1.000", "0.800", "2"]
    assert line_of(summary, "Interval").endswith("0.800 to 1.000")
    assert line_of(summary, "Threshold") == (
        "0.430 for dog, chosen on val, used in no answer; on test, without -> with it: "
        "accuracy 0.700 -> 0.688, balanced accuracy 0.650 -> 0.750, macro F1 0.500 -> "
        "0.500"
    )
    assert "Report" not in summary
    (tmp_path / "report.html").touch()
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "Report") == str(tmp_path / "report.html")
    assert line_of(summary, "Seconds") == "4 in total: data 1, finetune 3"
    assert summary.splitlines()[-1] == "Test accuracy: 75.0 %"


def test_it_is_said_whether_answers_use_thresholds(metrics, tmp_path):
    def line(label="Threshold"):
        return line_of(terminal.summarize_run(metrics, str(tmp_path)), label)

    threshold = metrics["threshold"]
    threshold["reason"] = "val has 9 images"
    assert line() == "none for dog: val has 9 images"
    threshold["in_use"] = True
    assert line("Thresholds") == "all one half: val has 9 images"
    threshold["reason"] = ""
    for name, value in (("cat", 0.5), ("dog", 0.2)):
        metrics["test"]["per_class"][name]["threshold"] = value
    assert line("Thresholds") == (
        "of 1 of 2 classes chosen on val, used in all answers; on test, one half -> "
        "thresholds: accuracy 0.700 -> 0.688, balanced accuracy 0.650 -> 0.750, "
        "macro F1 0.500 -> 0.500"
    )
    del threshold["test_without"]  # of an earlier version
    assert "Threshold" not in terminal.summarize_run(metrics, str(tmp_path))


def test_warnings_stand_before_the_accuracy(metrics, tmp_path):
    metrics["warnings"] = ["Results are too good."]
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert summary.splitlines()[-2] == "Warning: Results are too good."
    evaluated = metrics["test"] | {"warnings": ["Results are too good."]}
    [*_, warning, last] = terminal.summarize_evaluation(evaluated).splitlines()
    assert warning == "Warning: Results are too good."
    assert last == "Accuracy: 75.0 %"


def test_a_class_without_images_has_no_scores(metrics, tmp_path):
    metrics["test"]["per_class"]["dog"]["support"] = 0
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "  dog").split() == ["-", "-", "-", "0"]


def test_images_that_an_evaluation_leaves_out_are_counted(metrics):
    evaluated = metrics["test"] | {"num_examples": 7, "num_seen": 34, "num_skipped": 0}
    first = terminal.summarize_evaluation(evaluated).splitlines()[0]
    assert first == ("Images: 7, without 34 that the model was trained or selected on")


def test_one_image_and_one_class_are_singular(metrics, tmp_path):
    metrics["num_examples"]["test"] = 1
    metrics["class_names"] = ["cat"]
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "Data") == "9 train, 9 val, 1 test image; 1 class: cat"


def test_many_classes_are_abbreviated(metrics, tmp_path):
    metrics["class_names"] = [str(i) for i in range(11)]
    summary = terminal.summarize_run(metrics, str(tmp_path))
    assert line_of(summary, "Data").endswith(
        "11 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    )


def test_calibration_or_the_reason_for_none_is_shown(metrics, tmp_path):
    shown = line_of(terminal.summarize_run(metrics, str(tmp_path)), "Calibration")
    assert (
        "temperature 1.25" in shown and "1.2345 -> " in shown and "0.346 -> " in shown
    )
    metrics["calibration"]["reason"] = "too few images"
    shown = line_of(terminal.summarize_run(metrics, str(tmp_path)), "Calibration")
    assert shown == "none: too few images"


def test_exports_are_shown_with_how_they_compare(metrics, tmp_path):
    def summary():
        return terminal.summarize_run(metrics, str(tmp_path))

    assert line_of(summary(), "Exports").startswith("none: --export_formats is empty")
    (tmp_path / "export" / "onnx" / "2").mkdir(parents=True)
    deleted = {"path": None, "error": "is wrong", "agreement": 0.5}
    unknown = dict.fromkeys(("accuracy", "bytes", "milliseconds", "images_per_second"))
    metrics["exports"] = {
        "saved_model": export_result(difference=2e-7),
        "onnx": export_result(path="export/onnx/2", **unknown),
        "litert_int8": export_result(**deleted),
    }
    columns = ["difference", "same", "accuracy", "MB", "ms/image", "images/s"]
    assert line_of(summary(), "Exports").split() == columns
    assert line_of(summary(), "  saved_model").split() == [
        *("2e-07", "1.0000", "0.750", "1.00", "2.0", "600.0", "removed")
    ]
    cells = line_of(summary(), "  onnx").split()
    assert cells == ["1e-07", "1.0000", *4 * "-", str(tmp_path / "export" / "onnx/2")]
    assert line_of(summary(), "  litert_int8").split()[-1] == "deleted"
    assert line_of(summary(), "  No litert_int8: ") == "it is wrong"
    with pytest.raises(UserError, match="Received: litert_int8 is wrong$"):
        terminal.check_exports(metrics["exports"])
    del metrics["exports"]["litert_int8"]
    terminal.check_exports(metrics["exports"])


def test_an_evaluation_ends_with_its_accuracy(metrics):
    summary = terminal.summarize_evaluation(metrics["test"])
    assert summary.splitlines()[-1] == "Accuracy: 75.0 %"
    assert "macro F1 0.733, balanced accuracy 0.750" in summary


@pytest.mark.parametrize(
    ("obstacle", "last"),
    [
        (None, "Ready to train."),
        (UserError("no images of dog"), "Training would not start."),
    ],
)
def test_a_check_ends_with_whether_training_can_start(examples, obstacle, last):
    findings = [Finding("dog", "few_images", "2 images in train")]
    *rest, end = terminal.summarize_check(examples, findings, obstacle).splitlines()
    assert end == last
    assert "Splits      4 train, 4 val, 4 test" in rest
    assert any("dog: 2 images in train" in line for line in rest)
    summary = terminal.summarize_check(examples, [], obstacle)
    assert line_of(summary, "Findings") == "none"
