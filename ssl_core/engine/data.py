"""Images as one array of uint8 or uint16, brought to the device a batch at a time."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Queue
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESIDENT_SHARE = 0.4
"""Share of the free device memory the images may take before they stay on the host."""


class Images:
    """(N, C, H, W), uint8 or uint16, memory-mapped on the host; wholly on the device when it fits.

    Args:
        array: any such array; a memory map is not copied on a CPU.
        announce: told the ids (B,) of a batch while the one before it is worked on; whoever reads the array from a disk can
            begin to.
    """

    def __init__(
        self,
        array: np.ndarray[Any, np.dtype[Any]],
        device: torch.device,
        announce: Callable[[np.ndarray[Any, Any]], None] = lambda ids: None,
    ):
        if array.dtype not in (np.uint8, np.uint16) or array.ndim != 4:
            raise ValueError(f"images must be uint8 or uint16 (N, C, H, W), not {array.dtype} {array.shape}")
        self.device, self.announce = device, announce
        self.shape = array.shape
        host = torch.from_numpy(array) if array.flags.writeable else _read_only_tensor(array)
        self.resident = device.type == "cpu" or array.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
        self._data = host.to(device) if self.resident else host

    def __len__(self) -> int:
        return int(self.shape[0])

    def batch(self, ids: Tensor) -> Tensor:
        """(B, C, H, W) on the device for (B,) ids, on the device or, if the images are not there, on the host."""
        if self.resident:
            return self._data.index_select(0, ids)
        pinned = torch.empty((len(ids), *self.shape[1:]), dtype=self._data.dtype, pin_memory=True)
        return torch.index_select(self._data, 0, ids.cpu(), out=pinned).to(self.device, non_blocking=True)

    def batches(self, ids: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (ids, images), both on the device; what is not there is copied a batch ahead by a thread."""
        if self.device.type == "cpu":
            for chunk, following in itertools.pairwise(itertools.chain(ids, [None])):
                if following is not None:
                    self.announce(following.numpy())
                assert chunk is not None
                yield chunk, self.batch(chunk)
        elif self.resident:
            for chunk in ids:
                yield chunk, self.batch(chunk)
        else:
            yield from self._copied(ids)

    def _copied(self, ids: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``batches``, for ids on the host; the copies have a stream of their own, so none waits for a running step."""
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stopped = threading.Event()
        queue: Queue[tuple[Tensor, Tensor, torch.cuda.Event] | BaseException | None] = Queue(maxsize=2)

        def fill() -> None:
            try:
                with torch.cuda.stream(stream):
                    for chunk in ids:
                        if stopped.is_set():
                            return
                        here = chunk.pin_memory().to(self.device, non_blocking=True)
                        queue.put((here, self.batch(chunk), stream.record_event()))
                queue.put(None)
            except BaseException as error:
                queue.put(error)

        threading.Thread(target=fill, daemon=True).start()
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                chunk, images, copied = item
                current = torch.cuda.current_stream(self.device)
                current.wait_event(copied)
                for tensor in (chunk, images):
                    tensor.record_stream(current)  # its memory is free again when the step has used it, not when it was copied
                yield chunk, images
        finally:
            stopped.set()
            while not queue.empty():
                queue.get_nowait()


def _read_only_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over read-only memory; nothing here ever writes to it."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
