import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.cluster import predictions
from keras_ft.jobs.predict import predict


@pytest.fixture
def make_config(cluster, finished_run, optimized_graphs):
    """Makes the config of a prediction on the cluster, or here."""

    def make(data, output, is_here=False, **flags):
        given = {
            "model": finished_run.run.workdir,
            "batch_size": 2,
            "cluster": "" if is_here else f"ray:{cluster.address}",
        }
        return Config(mode="predict", data=data, output=output, **(given | flags))

    return make


def test_predictions_are_those_of_one_process_though_an_actor_dies(
    make_config, image_folder, tmp_path, monkeypatch, caplog
):
    import ray

    class Pool(predictions._Pool):
        def send(self, shard):
            actor = self.free[0]
            super().send(shard)
            if shard.number == 2 and not self._dead:
                ray.kill(actor)

    monkeypatch.setattr(predictions, "_Pool", Pool)
    monkeypatch.chdir(tmp_path)  # actors are in another folder
    red = Path("images") / "red"
    (red / "0.png").write_bytes(b"no image")
    (red / "1.png").unlink()
    (red / "1.png").symlink_to("nowhere")
    paths = sorted(Path("images").glob("*/*.png"))
    Path("list").write_text("".join(f"{path}\n" for path in [*paths, *paths, "gone"]))
    predict(make_config("@list", "here.jsonl", is_here=True))
    predict(make_config("@list", "there.jsonl"))
    assert Path("there.jsonl").read_bytes() == Path("here.jsonl").read_bytes()
    assert caplog.text.count("Images are classified again elsewhere: ") == 1
    assert "Wrote 56 predictions to there.jsonl; 5 files could" in caplog.text


def test_a_node_with_another_model_is_one_line(
    make_config, image_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(predictions, "hash_model", lambda model: "another")
    output = tmp_path / "out.csv"
    with pytest.raises(UserError, match="share the file system of --model.*is another"):
        predict(make_config(image_folder, output))
    assert not list(tmp_path.glob("out*"))


def test_a_file_that_is_missing_on_a_node_alone_is_an_error(image_folder):
    missing = "No such file or directory"
    red = image_folder / "red" / "0.png"
    answers = [(None, missing), (None, "not a readable image")]
    shard = predictions._Shard(0, ["/nowhere/0.png", str(red)])
    assert predictions._check_seen(shard, "10.0.0.3", answers) == answers
    shard = predictions._Shard(0, [str(red), str(red)])
    with pytest.raises(UserError, match=f"10.0.0.3, which can't read {red}: {missing}"):
        predictions._check_seen(shard, "10.0.0.3", answers)


class FakePool:
    """Answers the last shard first; each shard fails at first."""

    def __init__(self, count):
        self.count, self.free = count, ["actor"] * 2 * count
        self.sent, self.failed, self.most = [], set(), 0

    def send(self, shard):
        self.free.pop()
        self.sent.append(shard)
        self.most = max(self.most, len(self.sent))

    def wait(self):
        self.free.append("actor")
        shard = self.sent.pop()
        if shard.number not in self.failed:
            self.failed.add(shard.number)
            return shard, None
        return shard, ("node", [(file, "") for file in shard.files])


def test_shards_are_in_order_and_few_are_in_memory():
    taken = []
    files = (taken.append(i) or f"/{i}" for i in range(1003))
    pool = FakePool(3)
    answers = predictions._classify(pool, files, batch_size=5)
    for i in range(1003):
        assert next(answers) == (f"/{i}", "")
        assert len(taken) <= i + 20 * (2 * pool.most + 1)
    assert next(answers, None) is None
    assert pool.most == 6
    assert list(predictions._classify(FakePool(1), [], 5)) == []


class FakeRay:
    """Stands in for the module `ray`; actors that get `deadly` files die."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayActorError(RayError):
            pass

    def __init__(self, deadly):
        self.deadly, self.killed = deadly, []

    def make_actor(self):
        load = SimpleNamespace(remote=lambda: (object(), None))
        classify = SimpleNamespace(remote=lambda files: (object(), tuple(files)))
        return FakeActor(load, classify)

    def wait(self, calls):
        return calls[:1], calls[1:]

    def get(self, call):
        _, files = call
        if files is None:
            return ("a task",)
        if self.deadly & set(files):
            raise self.exceptions.RayActorError("out of memory\n...")
        return "node", [(file, "") for file in files]

    def kill(self, actor):
        self.killed.append(actor)


class FakeActor:
    def __init__(self, load, classify):
        self.load, self.classify = load, classify


def test_an_image_that_kills_every_actor_ends_the_prediction(monkeypatch):
    ray = FakeRay({"/3"})
    monkeypatch.setitem(sys.modules, "ray", ray)
    pool = predictions._Pool(ray.make_actor, 2)
    assert pool.wait_for_tasks() == ("a task",)
    answers = predictions._classify(pool, [f"/{i}" for i in range(100)], batch_size=1)
    with pytest.raises(UserError, match="6 processes in a row.*out of memory$"):
        list(answers)
    assert len(set(ray.killed)) == len(ray.killed) >= 6


@pytest.mark.slow
def test_images_of_a_killed_node_are_classified_elsewhere(
    make_config, other_node, image_folder, tmp_path, monkeypatch, caplog
):
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    paths = sorted(image_folder.glob("*/*.png"))
    names = tmp_path / "list"
    names.write_text("".join(f"{path}\n" for path in 50 * paths))
    predict(make_config(f"@{names}", here, is_here=True))
    killer = threading.Thread(target=other_node)

    class Pool(predictions._Pool):
        def send(self, shard):
            super().send(shard)
            working = {actor for actor, each in self._calls.values() if each}
            if len(working) == 2 and not killer.ident:
                killer.start()

    monkeypatch.setattr(predictions, "_Pool", Pool)
    predict(make_config(f"@{names}", there))
    assert killer.ident
    assert len(read_table(there)) == 1500
    assert there.read_bytes() == here.read_bytes()
    assert "Images are classified again elsewhere: " in caplog.text
