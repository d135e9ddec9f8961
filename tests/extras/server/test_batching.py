import asyncio
import threading

import pytest

from keras_ft.extras.server import batching
from keras_ft.extras.server.batching import Batcher, Busy
from keras_ft.serving.encoded import Encoded


def encoded(*names, num_pixels=1):
    return [Encoded(name.encode(), num_pixels=num_pixels) for name in names]


class Model:
    """Stands in for a classifier; the answer for an image is its content."""

    def __init__(self):
        self.num_begun = 0
        self.batches = []
        self.may_go_on = threading.Event()

    def classify(self, images):
        self.num_begun += 1
        if not self.batches:
            self.may_go_on.wait(10)
        self.batches.append([image.decode() for image in images])
        if b"error" in images:
            raise RuntimeError("it failed")
        return images


def run(story, batch_size=4):
    """Runs a story of requests with a batcher, whose first batch waits for `go_on`."""

    async def run_all():
        model, sizes = Model(), []
        batcher = Batcher(model.classify, batch_size, sizes.append)
        running = asyncio.create_task(batcher.run())
        await story(batcher, model)
        running.cancel()
        assert sizes == [len(batch) for batch in model.batches]
        assert len(batcher) == 0
        return model.batches

    return asyncio.run(run_all())


async def begin(batcher, *requests):
    """Sends requests, and waits until they wait."""
    tasks = [asyncio.create_task(batcher.classify(images)) for images in requests]
    await asyncio.sleep(0.05)
    return tasks


def test_what_arrives_while_a_batch_is_classified_becomes_the_next_one():
    async def story(batcher, model):
        [first] = await begin(batcher, encoded("a"))
        others = await begin(batcher, encoded("b", "c"), encoded("d"), encoded("e"))
        more = await begin(batcher, encoded("f"))
        model.may_go_on.set()
        answers = await asyncio.gather(first, *others, *more)
        assert answers == [[b"a"], [b"b", b"c"], [b"d"], [b"e"], [b"f"]]

    assert run(story) == [["a"], ["b", "c", "d", "e"], ["f"]]


def test_a_request_may_have_more_images_than_a_batch():
    async def story(batcher, model):
        model.may_go_on.set()
        assert await batcher.classify(encoded(*"abcdef")) == [
            name.encode() for name in "abcdef"
        ]

    assert run(story, batch_size=4) == [["a", "b", "c", "d"], ["e", "f"]]


def test_a_request_that_is_given_up_is_not_classified():
    async def story(batcher, model):
        [first, second, third] = await begin(
            batcher, encoded("a"), encoded("b"), encoded("c")
        )
        second.cancel()
        await asyncio.sleep(0.05)
        model.may_go_on.set()
        assert await asyncio.gather(first, third) == [[b"a"], [b"c"]]

    assert run(story, batch_size=1) == [["a"], ["c"]]


def test_an_error_reaches_the_requests_of_its_batch_alone():
    async def story(batcher, model):
        [first] = await begin(batcher, encoded("a"))
        [bad] = await begin(batcher, encoded("error"))
        [last] = await begin(batcher, encoded("b"))
        model.may_go_on.set()
        with pytest.raises(RuntimeError, match="it failed"):
            await bad
        assert await asyncio.gather(first, last) == [[b"a"], [b"b"]]

    assert run(story, batch_size=1) == [["a"], ["error"], ["b"]]


def test_too_many_images_are_refused_and_those_that_wait_are_answered(monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING", 2)

    async def story(batcher, model):
        [first] = await begin(batcher, encoded("a"))
        [second] = await begin(batcher, encoded("b"))
        with pytest.raises(Busy):
            await batcher.classify(encoded("c", "d"))
        model.may_go_on.set()
        assert await asyncio.gather(first, second) == [[b"a"], [b"b"]]

    assert run(story) == [["a"], ["b"]]


def test_a_batch_has_a_limit_of_pixels(monkeypatch):
    monkeypatch.setattr(batching, "MAX_PIXELS_OF_BATCH", 100)
    monkeypatch.setattr(batching, "MAX_PIXELS_OF_LARGE_BATCH", 4_500_000)

    async def story(batcher, model):
        model.may_go_on.set()
        await batcher.classify(encoded(*"abc", num_pixels=50))
        await batcher.classify(encoded(*"de", num_pixels=500))
        await batcher.classify(encoded(*"fgh", num_pixels=2_100_000))

    assert run(story) == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"], ["h"]]


def test_small_images_do_not_wait_for_large_ones():
    async def story(batcher, model):
        [large] = await begin(batcher, encoded("l", "m", num_pixels=50_000_000))
        [small] = await begin(batcher, encoded("s"))
        async with asyncio.timeout(10):
            while model.num_begun < 2:  # both are in work, in two threads
                await asyncio.sleep(0.01)
        model.may_go_on.set()
        assert await asyncio.gather(large, small) == [[b"l", b"m"], [b"s"]]

    assert sorted(run(story)) == [["l"], ["m"], ["s"]]


def test_one_request_does_not_hold_up_the_others():
    async def story(batcher, model):
        [first] = await begin(batcher, encoded("first"))
        [many] = await begin(batcher, encoded(*"abcdef", num_pixels=1_000_000))
        [one] = await begin(batcher, encoded("x"))
        model.may_go_on.set()
        await asyncio.gather(first, many, one)

    assert run(story, batch_size=2) == [
        ["first"],
        ["x", "a"],
        *map(list, ("bc", "de", "f")),
    ]
