from keras_ft.models.classifier import make_backbone


def test_tiny_is_tiny():
    assert make_backbone("tiny", (16, 16)).count_params() < 12_000
