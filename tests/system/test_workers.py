"""Who the workers of a run are, from TF_CONFIG; without processes and TensorFlow."""

import json

import pytest

from keras_ft.errors import UserError
from keras_ft.system.team import Team
from keras_ft.system.workers import ALONE, Workers, choose_workers, load_workers


def make(cluster, job="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})


TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALONE),
        ("{}", ALONE),
        (make({"worker": ["a:1"]}), ALONE),
        (make(TWO, index=1), Workers(("a:1", "b:1"), 1)),
        # Kubernetes operators: a job of its own for the chief, and other keys.
        (
            make({"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": []}, index=1),
            Workers(("c:1", "a:1", "b:1"), 2, has_chief_job=True),
        ),
        (
            make({"chief": ["c:1"], "worker": ["a:1"]}, "chief"),
            Workers(("c:1", "a:1"), 0, has_chief_job=True),
        ),
    ],
)
def test_tf_config_names_the_workers(text, expected, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    assert load_workers() == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "another structure"),
        (json.dumps({"cluster": TWO}), "another structure"),
        (make(TWO, index=2), "the task worker 2 is not in the cluster"),
        (make(TWO, index=-1), "the task worker -1 is not in the cluster"),
        (make(TWO, "evaluator"), "the task evaluator 0 is not in the cluster"),
        (make(TWO | {"ps": ["p:1"]}), "chief and worker only, without ps"),
        (make({"worker": ["a:1", "a:1"]}), "each address once"),
    ],
)
def test_a_malformed_tf_config_is_one_line(text, reason, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=reason) as error:
        load_workers()
    assert "\n" not in str(error.value)
    assert "TF_CONFIG must be like {" in str(error.value)


def test_jobs_are_those_of_tf_config():
    assert Workers(("a:1", "b:1", "c:1")).jobs == {"worker": 3}
    chief = Workers(("a:1", "b:1", "c:1"), has_chief_job=True)
    assert chief.jobs == {"chief": 1, "worker": 2}


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("num_rows", "unit"), [(0, 4), (3, 4), (37, 4), (40, 1)])
def test_shares_are_whole_units_and_cover_all_rows(num_workers, num_rows, unit):
    addresses = tuple(map(str, range(num_workers)))
    shares = [
        Team(Workers(addresses, i)).share(num_rows, unit) for i in range(num_workers)
    ]
    assert [row for share in shares for row in share] == list(range(num_rows))
    assert all(share.start % unit == 0 or not share for share in shares)
    sizes = [-(-len(share) // unit) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_strategy_and_tf_config_choose_the_workers(monkeypatch):
    with pytest.raises(UserError, match="needs the environment variable TF_CONFIG"):
        choose_workers("multi_worker", 8, "off")
    assert choose_workers("auto", 8, "off") == ALONE
    monkeypatch.setenv("TF_CONFIG", make(TWO, index=1))
    assert choose_workers("auto", 8, "off").index == 1
    assert choose_workers("none", 8, "off") == ALONE
    with pytest.raises(UserError, match="a multiple of the number of workers, 2. Rec"):
        choose_workers("auto", 7, "off")
    with pytest.raises(UserError, match="--jit=on and several workers exclude"):
        choose_workers("auto", 8, "on")
