import numpy as np
from helpers import make_examples, make_task, read_table
from report_helpers import label, make_measured

from keras_ft.kinds.task import MULTILABEL
from keras_ft.report.mistakes import write_mistakes


def test_the_surest_mistakes_are_listed_first(tmp_path):
    names = ["a.png", "=b.png", "-c.png", "d.png"]
    examples = make_examples(names, labels=[0, 0, 1, 1], class_names=("@x", "y"))
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    measured = make_measured(examples, probabilities)
    assert measured.find_mistakes().tolist() == [2, 1]
    write_mistakes(tmp_path / "wrong.csv", [measured])
    header = ("path", "label", "prediction", "probability")
    assert [tuple(row.items()) for row in read_table(tmp_path / "wrong.csv")] == [
        (*zip(header, cells, strict=True),)
        for cells in (
            ("'-c.png", "y", "'@x", "0.800000"),
            ("'=b.png", "'@x", "y", "0.600000"),
        )
    ]


def test_of_several_tasks_each_has_its_rows(tmp_path):
    plain = make_measured(label(make_task(2), [0, 1]), np.eye(2)[[1, 1]])
    tags = make_task(2, name="tags", kind=MULTILABEL, thresholds=(0.5, 0.5))
    examples = label(tags, [[1, 1], [1, 0], [0, 0]])
    probabilities = np.array([[0.7, 0.9], [0.2, 0.4], [0.6, 0.8]])
    write_mistakes(
        tmp_path / "wrong.csv", [plain, make_measured(examples, probabilities)]
    )
    assert [list(row.values()) for row in read_table(tmp_path / "wrong.csv")] == [
        ["0.png", "label", "a", "b", "1.000000"],
        ["1.png", "tags", "a", "", ""],  # 0.8 that it does not apply
        ["2.png", "tags", "", "a|b", "0.600000|0.800000"],
    ]
