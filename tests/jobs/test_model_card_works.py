"""The commands and the code in a model card, as its reader has it."""

import re
import shlex
import shutil

from helpers import ROOT, read_table

from keras_ft import cli


def test_what_the_model_card_tells_its_reader_to_do_works(
    finished_run, image_folder, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished_run.run.workdir, tmp_path / "elsewhere")
    monkeypatch.chdir(folder)
    image_folder.rename("new_photos")
    shutil.copy("new_photos/red/0.png", "photo.jpg")
    card = (folder / "model_card.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    (_, command), (_, snippet) = blocks
    program, *args = shlex.split(command)
    assert (
        f"\n    {program} = keras_ft.__main__:main\n"
        in (ROOT / "setup.cfg").read_text()
    )
    assert cli.main([program, *args]) == 0
    [row] = [
        r for r in read_table("predictions.csv") if r["path"].endswith("red/0.png")
    ]
    namespace = {}
    exec(snippet, namespace)
    assert namespace["answer"]["class_name"].numpy() == [row["class_name"].encode()]
