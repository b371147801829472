"""Batching: concurrent requests are predicted by one call of the model."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from lab.features.base import Sample


class Batcher:
    """Collects samples into batches of up to `max_batch`, and runs the model on each batch.

    A batch waits up to `max_wait` seconds for more samples, but only while requests are being decoded; `coming` is
    their number.

    Args:
        model: samples -> a prediction for each.
        max_batch: the maximal batch size.
        max_wait: the maximal waiting time, in seconds.
    """

    def __init__(self, model: Callable[[Sequence[Sample]], Sequence[Sample]], max_batch: int, max_wait: float) -> None:
        self.model, self.max_batch, self.max_wait = model, max_batch, max_wait
        self.coming = 0
        self.waiting: asyncio.Queue[tuple[Sample, asyncio.Future[Sample]]] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1)

    async def answer(self, item: Sample) -> Sample:
        """The prediction for a sample."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((item, future))
        return await future

    async def work(self) -> None:
        """Run the model on batch after batch, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [pair for pair in await self._next() if not pair[1].done()]  # a done future has timed out
            if not batch:
                continue
            try:
                items = [item for item, _ in batch]
                answers = await loop.run_in_executor(self.thread, self.model, items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _next(self) -> list[tuple[Sample, "asyncio.Future[Sample]"]]:
        """Wait for the next batch."""
        batch = [await self.waiting.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.max_wait):
                while len(batch) < self.max_batch and (self.coming or not self.waiting.empty()):
                    batch.append(await self.waiting.get())
        return batch
