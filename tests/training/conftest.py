"""Fixtures of cached features."""

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
