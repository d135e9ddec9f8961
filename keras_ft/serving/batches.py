"""Reads, decodes and classifies batches of files at the same time."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

from keras_ft.serving.damaged_files import naming_damaged

_Result = TypeVar("_Result")

# While one is classified, another is decoded and a third is read.
_BATCHES_AT_A_TIME = 3


def process_batches(
    process: Callable[[Sequence[Any]], Sequence[_Result]],
    files: Iterable[Any],
    batch_size: int,
) -> Generator[_Result, None, None]:
    """Applies a function to batches of files, in several threads; results are in order.

    Files are taken a few batches ahead of the results. At the end, a warning names
    those that are damaged.
    """
    remaining = enumerate(files)
    batches = iter(lambda: list(itertools.islice(remaining, batch_size)), [])
    in_work: collections.deque[tuple[list, concurrent.futures.Future]]
    in_work = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(_BATCHES_AT_A_TIME)
    with naming_damaged() as note_decoded:

        def finish_batch() -> Sequence[_Result]:
            results = in_work[0][1].result()
            note_decoded(file for batch, _ in in_work for file in batch)
            in_work.popleft()
            return results

        try:
            for batch in batches:
                of_batch = [file for _, file in batch]
                in_work.append((batch, pool.submit(process, of_batch)))
                if len(in_work) > _BATCHES_AT_A_TIME:
                    yield from finish_batch()
            while in_work:
                yield from finish_batch()
        finally:
            pool.shutdown(cancel_futures=True)
