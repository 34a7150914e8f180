"""Images as one array of uint8 or uint16, brought to the device a batch at a time."""

import threading
from collections.abc import Iterable, Iterator
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
    """

    def __init__(self, array: np.ndarray[Any, np.dtype[Any]], device: torch.device):
        if array.dtype not in (np.uint8, np.uint16) or array.ndim != 4:
            raise ValueError(f"images must be uint8 or uint16 (N, C, H, W), not {array.dtype} {array.shape}")
        self.device = device
        self.shape = array.shape
        host = torch.from_numpy(array) if array.flags.writeable else _read_only_tensor(array)
        self.resident = device.type == "cpu" or array.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
        self._data = host.to(device) if self.resident else host

    def __len__(self) -> int:
        return int(self.shape[0])

    def batch(self, ids: Tensor) -> Tensor:
        """(B, C, H, W) on the device for (B,) ids on the device."""
        if self.resident:
            return self._data.index_select(0, ids)
        return self._data.index_select(0, ids.cpu()).pin_memory().to(self.device, non_blocking=True)

    def batches(self, ids: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (ids, images); off-device data is gathered, pinned and copied one batch ahead by a thread."""
        if self.resident:
            for chunk in ids:
                yield chunk, self.batch(chunk)
            return
        queue: Queue[tuple[Tensor, Tensor] | BaseException | None] = Queue(maxsize=2)
        stopped = threading.Event()

        def fill() -> None:
            try:
                for chunk in ids:
                    if stopped.is_set():
                        return
                    queue.put((chunk, self.batch(chunk)))
                queue.put(None)
            except BaseException as error:
                queue.put(error)

        threading.Thread(target=fill, daemon=True).start()
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
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
