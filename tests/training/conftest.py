"""Fixtures of cached features and of phases."""

import pytest
from feature_helpers import list_split, make_request


@pytest.fixture
def split(image_folder):
    return list_split(image_folder)


@pytest.fixture
def request_(split):
    return make_request(split)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def flags(tiny_flags, pretrained):
    """Flags of phase head; tests that need phase finetune add it."""
    return tiny_flags | {
        "weights": (pretrained,),
        "head_epochs": 2,
        "head_learning_rate": 0.01,
        "finetune_epochs": 0,
        "finetune_learning_rate": 0.01,
        "optimizer": "sgd",  # Adam would enlarge rounding errors
        "schedule": "constant",
        "warmup_epochs": 0,
        "dropout": 0.3,
        "precision": "float32",
    }
