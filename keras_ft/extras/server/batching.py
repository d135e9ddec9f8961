"""Images of requests that come together -> one batch."""

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from keras_ft.extras.server.parse import MAX_IMAGES
from keras_ft.serving.encoded import Encoded

Answer = TypeVar("Answer")

# Images that may wait.
MAX_WAITING = MAX_IMAGES
# Larger images are classified beside the others, which need not wait for them.
MAX_PIXELS_OF_SMALL = 2_000_000
# Pixels of a batch: a second of a core at most, and 1 GB of memory.
MAX_PIXELS_OF_BATCH = 10_000_000
MAX_PIXELS_OF_LARGE_BATCH = 12_500_000 * min(4, os.cpu_count() or 1)
# Images of a request queue as if they arrived in this time after each other, so that
# others need not wait for all of them.
PIXELS_PER_SECOND = 2_500_000


class Busy(Exception):
    """Too many images wait already."""


@dataclasses.dataclass(order=True)
class _Waiting(Generic[Answer]):
    since: float  # the order of the queue
    image: Encoded = dataclasses.field(compare=False)
    answer: asyncio.Future[Answer] = dataclasses.field(compare=False)


_Queue = asyncio.PriorityQueue[_Waiting[Answer]]


class Batcher(Generic[Answer]):
    """Classifies images in batches.

    What arrives while a batch is classified becomes the next one. So a request alone
    is answered without delay, and batches grow with the load. Batches of
    small images and of large ones are classified at the same time.

    Args:
        classify: From encoded images to their answers; called in another thread.
        when_batched: Called with the number of images of each batch.
    """

    def __init__(
        self,
        classify: Callable[[list[bytes]], list[Answer]],
        batch_size: int,
        when_batched: Callable[[int], None],
    ):
        self._classify = classify
        self._batch_size = batch_size
        self._when_batched = when_batched
        self._small = _Queue[Answer]()
        self._large = _Queue[Answer]()

    def __len__(self) -> int:
        """Number of images that wait."""
        return self._small.qsize() + self._large.qsize()

    async def classify(self, images: Sequence[Encoded]) -> list[Answer]:
        """Classifies the images of one request; Busy if too many wait already."""
        if len(self) + len(images) > MAX_WAITING:
            raise Busy
        answers = []
        since = time.monotonic()
        for image in images:
            since += image.num_pixels / PIXELS_PER_SECOND
            answers.append(asyncio.Future[Answer]())
            is_small = image.num_pixels <= MAX_PIXELS_OF_SMALL
            queue = self._small if is_small else self._large
            queue.put_nowait(_Waiting(since, image, answers[-1]))
        return await asyncio.gather(*answers)

    async def run(self) -> None:
        """Classifies what arrives, until it is cancelled."""
        await asyncio.gather(
            self._run(self._small, MAX_PIXELS_OF_BATCH),
            self._run(self._large, MAX_PIXELS_OF_LARGE_BATCH),
        )

    async def _run(self, queue: "_Queue[Answer]", max_pixels: int) -> None:
        while True:
            if batch := await self._take_batch(queue, max_pixels):
                await self._answer(batch)

    async def _take_batch(
        self, queue: "_Queue[Answer]", max_pixels: int
    ) -> list[_Waiting[Answer]]:
        batch: list[_Waiting[Answer]] = []
        num_pixels = 0
        waiting = await queue.get()
        while True:
            if not waiting.answer.done():  # else its request was given up
                num_pixels += waiting.image.num_pixels
                if batch and num_pixels > max_pixels:
                    queue.put_nowait(waiting)
                    return batch
                batch.append(waiting)
            if len(batch) == self._batch_size or queue.empty():
                return batch
            waiting = queue.get_nowait()

    async def _answer(self, batch: Sequence[_Waiting[Answer]]) -> None:
        self._when_batched(len(batch))
        contents = [waiting.image.content for waiting in batch]
        try:
            answers = await asyncio.to_thread(self._classify, contents)
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
