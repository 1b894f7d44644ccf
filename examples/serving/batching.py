"""Requests that come together go through the model together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class BusyError(RuntimeError):
    """There is no room in the queue."""


class Batcher:
    """Collects single inputs for a moment, and runs them as one batch.

    Args:
        run: gives outputs `[B, C]` of inputs `[B, ...]`.
        most: inputs in a batch.
        wait: seconds that the first input of a batch waits for others.
        room: inputs that may wait; more are refused, so that those who wait are answered in time.
    """

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], most: int = 16, wait: float = 0.005, room: int = 64):
        self._run, self._most, self._wait = run, most, wait
        self._queue: asyncio.Queue = asyncio.Queue(room)
        self._thread = ThreadPoolExecutor(1, "model")
        self.sizes: list[int] = []

    async def __call__(self, given: np.ndarray) -> np.ndarray:
        """The output of one input.

        Raises:
            BusyError: if too many are waiting.
        """
        answer = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((given, answer))
        except asyncio.QueueFull:
            raise BusyError("Too many pictures are waiting: try again later.") from None
        return await answer

    async def work(self) -> None:
        """Run batches until cancelled."""
        while True:
            batch = await self._collect()
            waiting = [(given, answer) for given, answer in batch if not answer.done()]  # who has given up is done
            if not waiting:
                continue
            loop = asyncio.get_running_loop()
            try:
                inputs = np.stack([given for given, _ in waiting])
                outputs = await loop.run_in_executor(self._thread, self._run, inputs)
            except Exception as error:
                outputs = [error] * len(waiting)
            self.sizes = [*self.sizes[-99:], len(waiting)]
            for (_, answer), output in zip(waiting, outputs, strict=True):
                if answer.done():
                    continue
                answer.set_exception(output) if isinstance(output, Exception) else answer.set_result(output)

    async def _collect(self) -> list:
        batch = [await self._queue.get()]
        end = asyncio.get_running_loop().time() + self._wait
        while len(batch) < self._most:
            left = end - asyncio.get_running_loop().time()
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left) if left > 0 else self._queue.get_nowait())
            except (asyncio.TimeoutError, asyncio.QueueEmpty):
                break
        return batch
