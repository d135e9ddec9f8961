"""Tests of reading descriptions out of files that were made to do harm."""

import pytest

from keras_ft.extras.formats.descriptions import read_openvino


def test_entities_of_xml_that_multiply_are_refused(tmp_path):
    entities = ['<!ENTITY a0 "aaaaaaaaaa">']
    for i in range(1, 12):
        entities.append(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">')
    path = tmp_path / "model.xml"
    path.write_text(
        f'<?xml version="1.0"?><!DOCTYPE net [{"".join(entities)}]>'
        '<net><rt_info><keras_ft value="&a11;"/></rt_info></net>'
    )
    with pytest.raises(ValueError, match="amplification"):
        read_openvino(path)


def test_xml_does_not_read_other_files(tmp_path):
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "model.xml"
    path.write_text(
        f'<!DOCTYPE net [<!ENTITY a SYSTEM "file://{tmp_path}/secret">]>'
        "<net><rt_info><keras_ft>&a;</keras_ft></rt_info></net>"
    )
    with pytest.raises(ValueError, match="undefined entity"):
        read_openvino(path)
