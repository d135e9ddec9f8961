"""What holds for every kind of task: answers agree, in NumPy and in the graph."""

import json
import pickle

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from keras_ft.catalog.archive import Description, from_json, to_json
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.kinds.measure import measure, summarize
from keras_ft.kinds.task import KINDS, MULTICLASS, MULTILABEL, Task, agree

CELLS = {
    "multiclass": ["b", "", "a", "c", "a", "b", "b", "c"],
    "multilabel": ["b|a", "", "|", "c", "a|b|c", "b", "a", "c"],
}
# In float64 the number in float32 is below it.
THRESHOLDS = {"multiclass": (), "multilabel": (0.7, 0.3, 0.5)}

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=repr)


def make(kind):
    """A task, its target for 8 examples and probabilities of a model."""
    task, target = kind.read(Task("t", kind=kind), CELLS[kind.name])
    task = Task("t", task.class_names, kind, THRESHOLDS[kind.name])
    logits = np.random.default_rng(0).normal(0, 1.5, (8, 3)).astype(np.float32)
    probabilities = np.array(kind.activate(logits))
    probabilities[0] = [0.7, 0.1, 0.2]  # at a threshold
    return task, target, probabilities


@each_kind
def test_cells_are_read_and_written(kind):
    task, target, _ = make(kind)
    assert task.class_names == ("a", "b", "c")
    written = [kind.to_cell(task, label) for label in target]
    in_order = ["|".join(sorted(cell.split("|"))) for cell in CELLS[kind.name]]
    assert written == in_order
    assert kind.is_labelled(target).tolist() == [cell != "" for cell in in_order]
    named = [name for cell in in_order for name in kind.split_cell(cell)]
    assert task.count_classes(target).tolist() == [named.count(n) for n in "abc"]
    assert bool(kind.find_mistake(task, "a|b")) == (kind == MULTICLASS)
    of_many = kind.translate(target, np.array([3, 1, 0]), 4)
    many = Task("t", ("c", "b", "z", "a"), kind)
    assert [sorted(many.names_of(label)) for label in of_many] == [
        task.names_of(label) for label in target
    ]


@each_kind
def test_all_forms_of_an_answer_are_what_the_graph_answers(kind):
    task, _, probabilities = make(kind)
    in_graph = tf.function(lambda values: kind.answer_in_graph(task, values))
    of_graph = {k: v.numpy() for k, v in in_graph(tf.constant(probabilities)).items()}
    decided = kind.decide(task, probabilities)
    for i, of_image in enumerate(probabilities):
        answer = kind.answer(task, of_image)
        assert list(answer) == list(of_graph)
        for name, value in answer.items():
            expected = of_graph[name][i]
            if isinstance(value, str):
                assert value == expected.decode()
            else:
                np.testing.assert_array_equal(np.float32(value), expected)
        names = "|".join(task.names_of(decided[i]))
        cells = dict(
            zip(kind.columns(task, 2), kind.to_cells(task, of_image, 2), strict=True)
        )
        row = kind.to_json(task, of_image, 2)
        assert json.loads(json.dumps(row)) == row
        assert row.keys() == kind.to_json(task, None, 2).keys()
        if kind == MULTICLASS:
            assert names == answer["class_name"] == cells["class_name"]
            assert names == row["class_name"] == row["top"][0]["class_name"]
        else:
            assert names == answer["labels"] == cells["labels"]
            assert names == "|".join(one["class_name"] for one in row["labels"])


def test_thresholds_are_compared_in_float32():
    task, _, probabilities = make(MULTILABEL)
    assert probabilities[0, 0] < np.float64(task.thresholds[0])
    assert task.names_of(MULTILABEL.decide(task, probabilities[0])) == ["a"]


@each_kind
def test_training_and_metrics_agree_on_what_is_correct(kind):
    task, target, _ = make(kind)
    task = Task("t", task.class_names, kind)  # thresholds are chosen after training
    hard = kind.encode(task, tf.constant(target), 0.0).numpy()
    noise = np.random.default_rng(1).normal(0, 1.5, (8, 3))
    logits = (2 * hard - 1 + noise).astype(np.float32)
    logits[0] *= -1  # wrong
    probabilities = np.array(kind.activate(logits))
    labelled = kind.is_labelled(target)
    labels = kind.encode(task, tf.constant(target), 0.1).numpy()
    assert np.all((labels == -1).all(axis=1) == ~labelled)
    correct = kind.are_correct(labels, logits).numpy()[labelled]
    decided = kind.decide(task, probabilities)
    np.testing.assert_array_equal(correct, agree(decided, target)[labelled])
    assert 0 < correct.mean() < 1
    summary = summarize(task, target, probabilities)
    assert summary["accuracy"] == correct.mean()
    metrics = measure(task, target, probabilities, intervals=True)
    assert summary.items() <= metrics.items()
    low, high = metrics["accuracy_interval"]
    assert low < summary["accuracy"] < high
    loss = kind.losses["none"](task.count_classes(target), 7)
    of_examples = loss(hard[labelled], logits[labelled]).numpy()
    assert of_examples.mean() == pytest.approx(summary["loss"], rel=1e-5)


@each_kind
def test_rescaling_divides_the_logits(kind):
    logits = np.random.default_rng(2).normal(0, 2, (8, 3))
    activate = {
        "multiclass": lambda values: scipy.special.softmax(values, axis=1),
        "multilabel": scipy.special.expit,
    }[kind.name]
    np.testing.assert_allclose(np.array(kind.activate(logits)), activate(logits), 1e-5)
    np.testing.assert_allclose(
        kind.rescale(activate(logits), 2.5), activate(logits / 2.5)
    )


def test_confidence_is_that_of_the_least_sure_answer():
    task, _, _ = make(MULTICLASS)
    probabilities = np.array([[0.9, 0.1, 0.0], [0.25, 0.45, 0.3]])
    confidence = MULTICLASS.measure_confidence(task, probabilities)
    assert confidence.tolist() == [0.9, 0.45]
    task, _, _ = make(MULTILABEL)
    probabilities = np.array([[0.9, 0.31, 0.0], [0.1, 0.9, 0.9]])
    confidence = MULTILABEL.measure_confidence(task, probabilities)
    np.testing.assert_allclose(confidence, [0.01, 0.4])


def test_a_mistake_is_as_sure_as_its_surest_wrong_answer():
    task, _, _ = make(MULTICLASS)
    probabilities = np.array([[0.9, 0.1, 0.0], [0.25, 0.45, 0.3]])
    sure = MULTICLASS.measure_mistakes(task, np.array([0, 2]), probabilities)
    assert sure.tolist() == [-1, 0.45]
    task, _, _ = make(MULTILABEL)
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]])
    probabilities = np.array([[0.9, 0.29, 0.1], [0.1, 0.8, 0.0], [0.6, 0.9, 0.9]])
    sure = MULTILABEL.measure_mistakes(task, labels, probabilities)
    np.testing.assert_allclose(sure, [-1, 0.9, 0.4])


def test_a_card_shows_the_label_and_the_prediction_or_the_least_right_answer():
    probabilities = np.array([0.2, 0.7, 0.1])
    assert MULTICLASS.explain(np.int64(2), probabilities) == [1, 2]
    assert MULTICLASS.explain(np.int64(1), probabilities) == [1]
    assert MULTILABEL.explain(np.array([0, 1, 1]), probabilities) == [2]


@each_kind
def test_a_kind_survives_other_processes_and_files(kind):
    task, _, _ = make(kind)
    assert pickle.loads(pickle.dumps(task)) == task
    written = to_json(Description((task,), Preprocessing(16, 16)))
    assert from_json(written).tasks == (task,)
    [content] = json.loads(written)["tasks"]
    assert content["is_multilabel"] == (kind == MULTILABEL)
    del content["kind"]  # as an earlier version writes it
    older = json.dumps(json.loads(written) | {"tasks": [content]})
    assert from_json(older).tasks == (task,)
