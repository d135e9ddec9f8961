"""Images of requests that come together -> one batch."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from keras_ft.serving.encoded import Encoded

Answer = TypeVar("Answer")

# Images that may wait, and the pixels of a batch, which are in memory together: some
# 600 MB where a single image does not have more.
MAX_WAITING = 512
MAX_PIXELS_OF_BATCH = 50_000_000


class Busy(Exception):
    """Too many images wait already."""


@dataclasses.dataclass(frozen=True)
class _Waiting(Generic[Answer]):
    image: Encoded
    answer: asyncio.Future[Answer]


class Batcher(Generic[Answer]):
    """Classifies images in batches.

    What arrives while a batch is classified becomes the next one. So a request alone
    is answered without delay, and batches grow with the load.

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
        self._queue: collections.deque[_Waiting[Answer]] = collections.deque()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Number of images that wait."""
        return len(self._queue)

    async def classify(self, images: Sequence[Encoded]) -> list[Answer]:
        """Classifies the images of one request; Busy if too many wait already."""
        if len(self._queue) + len(images) > MAX_WAITING:
            raise Busy
        waiting = [_Waiting[Answer](image, asyncio.Future()) for image in images]
        self._queue.extend(waiting)
        self._arrived.set()
        return await asyncio.gather(*(each.answer for each in waiting))

    async def run(self) -> None:
        """Classifies what arrives, until it is cancelled."""
        while True:
            await self._arrived.wait()
            batch = self._take_batch()
            if not self._queue:
                self._arrived.clear()
            if batch:
                await self._answer(batch)

    def _take_batch(self) -> list[_Waiting[Answer]]:
        batch: list[_Waiting[Answer]] = []
        num_pixels = 0
        while self._queue and len(batch) < self._batch_size:
            if self._queue[0].answer.done():  # its request was given up
                self._queue.popleft()
                continue
            num_pixels += self._queue[0].image.num_pixels
            if batch and num_pixels > MAX_PIXELS_OF_BATCH:
                break
            batch.append(self._queue.popleft())
        return batch

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
