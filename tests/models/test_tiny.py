import pytest

from keras_ft.models.classifier import make_backbone
from keras_ft.models.tiny import TinyNet


@pytest.mark.parametrize(
    "wrong",
    [{"weights": "imagenet"}, {"include_top": True}, {"input_shape": (15, 32, 3)}],
)
def test_tiny_refuses_what_it_does_not_have(wrong):
    with pytest.raises(ValueError, match="Received: "):
        TinyNet(**wrong)


def test_tiny_is_tiny():
    assert make_backbone("tiny", (16, 16)).count_params() < 12_000
