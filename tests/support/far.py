"""A second device in this process, for what a GPU would refuse or wait for: ``python -m tests.support.far METHOD...``.

Its tensors wrap tensors of the CPU, which compute for them, so the numbers are real. An operation that mixes the two devices
raises, as on a GPU, and what would make the host wait for a GPU is counted with the line that does it. Printed is, for each
method, what a few steps of a training give there and on the CPU, as a line of JSON.
"""

import collections
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FAR = "far"
aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Their indices may lie on the CPU."""
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "_unique2", "repeat_interleave")
"""The size or the value of what they give is needed on the host."""
UNORDERED = ("cumsum", "cumprod", "bincount", "histc", "kthvalue", "scatter_reduce")
"""Of floating-point numbers a GPU has no deterministic one."""
waited: collections.Counter[str] = collections.Counter()
unordered: collections.Counter[str] = collections.Counter()


class FarTensor(Tensor):
    """A tensor on the second device."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "FarTensor":
        about = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype, "device": f"{FAR}:0"}
        made = Tensor._make_wrapper_subclass(cls, near.size(), requires_grad=near.requires_grad, **about)  # type: ignore[attr-defined]
        made.near = near.detach() if near.requires_grad else near
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Operations on tensors of the CPU too, which may make or move one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Lifted(TorchFunctionMode):
    """``torch.tensor`` of numbers makes its tensor on the CPU and moves it, below what a dispatch mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == FAR:
            return func(*args, **kwargs | {"device": "cpu"}).to(FAR)
        return func(*args, **kwargs)


class _Module(backend_registration._DummyBackendModule):
    """What torch asks of the module of a device."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU what belongs there or on the second device, but not on both."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    wrappers = [x for x in tensors if isinstance(x, FarTensor)]
    target = kwargs.get("device")
    is_far = bool(wrappers) if target is None else torch.device(target).type == FAR
    if func is aten.copy_.default:
        is_far = isinstance(args[0], FarTensor)
    name = func.__name__.partition(".")[0]
    _count(name, func, args, wrappers, is_far)
    if wrappers and name not in ("_to_copy", "copy_"):
        _refuse_mixed(func, args, tensors)
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    near_args, near_kwargs = tree_map(lambda x: x.near if isinstance(x, FarTensor) else x, (args, kwargs))
    found = func(*near_args, **near_kwargs)
    known = {id(x.near): x for x in wrappers}  # of an operation in place, the tensor itself

    def wrapped(x: Any) -> Any:
        return x if not isinstance(x, Tensor) else known[id(x)] if id(x) in known else FarTensor(x)

    return tree_map(wrapped, found) if is_far else found


def _refuse_mixed(func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
    near = [x for x in tensors if not isinstance(x, FarTensor) and x.ndim]
    if func in INDEXED and isinstance(args[0], FarTensor):
        near = [x for x in near if all(x is not index for index in args[1])]
    if near:
        raise RuntimeError(f"{func}: a tensor {tuple(near[0].shape)} on the CPU beside one on the {FAR} device")


def _count(name: str, func: Any, args: Any, wrappers: Sequence[Tensor], is_far: bool) -> None:
    moved = name in ("_to_copy", "copy_") and bool(wrappers) != is_far
    masked = func in INDEXED and bool(wrappers) and any(x is not None and x.dtype == torch.bool for x in args[1])
    if (wrappers and name in WAITS) or moved or masked or (name == "copy_" and len(wrappers) == 1):
        waited[f"{name} at {_line()}"] += 1
    if wrappers and name in UNORDERED and wrappers[0].is_floating_point():
        unordered[f"{name} at {_line()}"] += 1


def _line() -> str:
    """The line of the product that asked for the operation."""
    own = [f for f in traceback.extract_stack() if "/ssl_core/" in f.filename and "/tests/" not in f.filename]
    return f"{own[-1].filename.rpartition('/ssl_core/')[2]}:{own[-1].lineno}" if own else "?"


@contextlib.contextmanager
def far_device() -> Any:
    """The second device is there."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with _Lifted(), _Everywhere():
        yield torch.device(FAR, 0)


def trained(name: str, device: torch.device) -> tuple[dict[str, float], dict[str, int]]:
    """The last row of the history of a short training, and how often one of its steps waited for what."""
    from tasks.runtime import params
    from tests.ssl_core.engine import test_contract as contract

    contract.CPU = device
    _, trainer = contract.build(params.load(), name, channels=3, size=32, n=32)
    trainer.guard_steps = 1000  # as on a GPU: the steps of a while are looked at together
    step: Callable[..., None] = trainer._train_step

    def watched(*arguments: Any) -> None:
        waited.clear()
        step(*arguments)
        if trainer.step > 1:  # at the first one the guard looks
            of_steps.update(waited)

    of_steps: collections.Counter[str] = collections.Counter()
    trainer._train_step = watched  # type: ignore[method-assign]
    trainer.run()
    return trainer.history[-1], dict(of_steps)


def main() -> None:
    """Train each method on both devices; what runs a training comes after them, or its gradients would know of one alone."""
    backend_registration._setup_privateuseone_for_python_backend(FAR, _Module())
    torch.cuda.mem_get_info = lambda device=None: (2**40, 2**40)  # type: ignore[assignment]
    for name in sys.argv[1:]:
        unordered.clear()
        with far_device() as device:
            far, waits = trained(name, device)
        near, _ = trained(name, torch.device("cpu"))
        line = {"method": name, "near": near, "far": far, "waits": waits, "unordered": dict(unordered)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
