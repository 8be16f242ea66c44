"""A GPU without one: what a model would hold in a GPU's memory and launch on it, at its true shapes.

Tensors on it say that they are on `cuda:0`. Floating-point ones have a shape and no values, the others have values, so
that lengths and masks decide what they decide. Whatever mixes devices, or calls what CPUs alone have, is an error.
Attention is called as torch would choose it on a GPU. torch's own FakeTensorMode aborts in autograd without CUDA.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
# Operations that give another view of a storage: no kernel is launched for them.
VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "transpose",
        "t",
        "permute",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "expand",
        "alias",
        "detach",
        "split",
        "chunk",
        "unbind",
        "as_strided",
        "split_with_sizes",
        "lift_fresh",
        "_reshape_alias",
        "unfold",
        "diagonal",
        "view_as_real",
    ]
)
# Room alone; the values come with another kernel.
ROOM = frozenset(["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"])
LIKE = frozenset(
    ["new_empty", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "empty_like", "full_like"]
)
# CUDA takes indices that lie on the CPU.
INDEXED = frozenset(["index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"])
CPU_ONLY = ("for_cpu", "mkldnn", "fbgemm", "quantized")
# What the CPU has to wait for.
WAITED = frozenset(["nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim"])


class Gpu:
    """What the pretended GPU holds, in bytes, and what was launched on it."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self.launched: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self._held: dict[int, int] = {}

    def hold(self, tensor: Tensor) -> None:
        """Count a storage once, for as long as it lives."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._held.pop(key, 0)

    def begin(self) -> int:
        """Forget the peak and what was launched; what is held now."""
        self.peak = self.now
        self.launched.clear()
        self.waited.clear()
        return self.now


GPU = Gpu()


class OnGpu(Tensor):
    """A tensor of the pretended GPU; `held` has its shape, and its values where it has any."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device("meta"),
            requires_grad=False,
        )
        made.held = held
        GPU.hold(held)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def tolist(self) -> Any:
        GPU.waited["tolist"] += 1
        return (self.held if self.held.device.type == "cpu" else torch.zeros(self.shape)).tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})


def _room(held: Tensor) -> Tensor:
    """The same shape without values."""
    return torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")


def put(tensor: Tensor) -> OnGpu:
    """A tensor on the pretended GPU: of floating-point numbers the shape alone."""
    if tensor.is_floating_point():
        return OnGpu(_room(tensor))
    return OnGpu(tensor if tensor.device.type == "cpu" else torch.zeros(tensor.shape, dtype=tensor.dtype))


def put_module(module: torch.nn.Module) -> None:
    """Parameters and buffers of a module, meta or not, onto the pretended GPU; shared ones stay shared."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, OnGpu):
                if id(parameter) not in made:
                    made[id(parameter)] = torch.nn.Parameter(put(parameter), requires_grad=parameter.requires_grad)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, OnGpu):
                part._buffers[name] = put(buffer)


def _wrapped(found: Any) -> Any:
    if not isinstance(found, Tensor) or isinstance(found, OnGpu):
        return found
    return put(found) if found.device.type == "meta" and not found.is_floating_point() else OnGpu(found)


def _done(func: Any, args: Any, kwargs: Any) -> Any:
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    if torch.is_inference_mode_enabled() and composite:
        with _Mode():
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    name = func._schema.name.split("::")[1]
    args, kwargs = tree_map(lambda one: OnGpu(one) if _is_meta(one) else one, (args, kwargs))
    flat = tree_flatten((args, kwargs))[0]
    ours = [one for one in flat if isinstance(one, OnGpu)]
    others = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, OnGpu)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if not ours and (device is None or device.type == "cpu"):
        return func(*args, **kwargs)
    if name not in VIEWS and name not in ROOM and name != "_local_scalar_dense":
        GPU.launched[name] += 1
    if any(mark in name for mark in CPU_ONLY):
        raise RuntimeError(f"{func} is for CPUs alone")
    if name == "_to_copy":
        return _moved(func, args[0], kwargs, device)
    if name == "_local_scalar_dense":
        GPU.waited["item"] += 1
        return args[0].held.item() if args[0].held.device.type == "cpu" else 0.5
    if name == "copy_":
        return _copied(*args[:2])
    if name in WAITED:
        GPU.waited[name] += 1
    if name in INDEXED:
        args = [args[0], _indices(args[1]), *args[2:]]
        flat = tree_flatten((args, kwargs))[0]
        ours = [one for one in flat if isinstance(one, OnGpu)]
        inner = {id(one) for one in args[1]}
        others = [one for one in others if id(one) not in inner]
    for one in others:
        if one.dim():
            raise RuntimeError(f"{func}: a CPU tensor {tuple(one.shape)} beside {[tuple(our.shape) for our in ours]}")
    return _computed(func, name, args, dict(kwargs), ours, device)


def _is_meta(one: Any) -> bool:
    return isinstance(one, Tensor) and not isinstance(one, OnGpu) and one.device.type == "meta"


def _moved(func: Any, tensor: Any, kwargs: Any, device: torch.device | None) -> Any:
    kept = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
    target = device or (CUDA if isinstance(tensor, OnGpu) else torch.device("cpu"))
    held = tensor.held if isinstance(tensor, OnGpu) else tensor
    if target.type == "cpu":
        GPU.waited["to the CPU"] += 1
        return func(torch.zeros(held.shape, dtype=held.dtype) if held.device.type == "meta" else held, **kept)
    if not isinstance(tensor, OnGpu) and held.is_floating_point():
        held = _room(held)
    return put(func(held, **kept))


def _copied(to: Any, source: Any) -> Any:
    if not isinstance(to, OnGpu):
        GPU.waited["to the CPU"] += 1
        return to
    held = source.held if isinstance(source, OnGpu) else source
    if to.held.device.type == held.device.type == "cpu":
        to.held.copy_(held)
    return to


def _indices(given: Any) -> list[Any]:
    """Indices with masks as the numbers that they stand for, which the CPU has to wait for on a GPU, too."""
    found: list[Any] = []
    for one in given:
        if isinstance(one, Tensor) and one.dtype == torch.bool:
            GPU.waited["mask"] += 1
            held = one.held if isinstance(one, OnGpu) else one
            found += [OnGpu(number) for number in held.nonzero(as_tuple=True)]
        else:
            found.append(one)
    return found


def _computed(func: Any, name: str, args: Any, kwargs: Any, ours: list[OnGpu], device: torch.device | None) -> Any:
    shapes = any(one.held.device.type == "meta" for one in ours)

    def bare(one: Any) -> Any:
        if isinstance(one, OnGpu):
            return _room(one.held) if shapes and one.held.device.type == "cpu" else one.held
        return one.to("meta") if isinstance(one, Tensor) and shapes else one

    if "device" in kwargs and not (device is not None and device.type == "cpu"):
        floats = _makes_floats(name, args, kwargs.get("dtype") or (ours[0].dtype if ours else None))
        kwargs["device"] = torch.device("meta" if floats or shapes else "cpu")
    elif name in LIKE and "device" not in kwargs:
        dtype = kwargs.get("dtype") or ours[0].dtype
        if not dtype.is_floating_point:
            shapes, kwargs["device"] = False, torch.device("cpu")
        elif ours[0].held.device.type == "cpu":
            kwargs["device"] = torch.device("meta")
    if name == "masked_scatter":
        # Its meta kernel wants a mask of the same shape.
        args = [args[0], args[1].expand(args[0].shape), args[2]]
    found = func(*tree_map(bare, args), **kwargs)
    in_place = func._schema.is_mutable and args and isinstance(args[0], OnGpu) and isinstance(found, Tensor)
    return args[0] if in_place else tree_map(_wrapped, found)


def _makes_floats(name: str, args: Any, dtype: torch.dtype | None) -> bool:
    if dtype is not None:
        return dtype.is_floating_point
    if name in ("arange", "full", "scalar_tensor"):
        return any(isinstance(one, float) for one in args)
    return True


_attention = F.scaled_dot_product_attention


def _as_on_a_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if not isinstance(query, OnGpu):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"attention over {query.dtype}, {key.dtype} and {value.dtype}")
    grouped = key.shape[1] != query.shape[1]
    if grouped and not enable_gqa:
        raise RuntimeError("grouped heads without enable_gqa")
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        flash: Any = aten._scaled_dot_product_flash_attention
        out: Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out
    if grouped:
        raise RuntimeError("no fused attention takes a mask and grouped heads")
    bias = attn_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.where(bias, 0.0, float("-inf")).to(query.dtype)
    if bias is not None:
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    wanted = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    efficient: Any = aten._scaled_dot_product_efficient_attention
    found: Tensor = efficient(query, key, value, bias, wanted, dropout_p, is_causal, scale=scale)[0]
    return found


@contextmanager
def pretended() -> Iterator[Gpu]:
    """Within, `device="cuda"` is the pretended GPU, and attention is chosen as there."""
    plain, started, dropout = torch.tensor, torch.cuda._lazy_init, F.dropout

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = plain(data, **options)
        return made if device is None or torch.device(device).type == "cpu" else put(made)

    torch.tensor, torch.cuda._lazy_init = tensor, lambda: None
    F.scaled_dot_product_attention = _as_on_a_gpu
    # There one kernel drops out and keeps a byte a number of it.
    F.dropout = lambda one, p=0.5, training=True, inplace=False: torch.native_dropout(one, p, training)[0]
    GPU.begin()
    try:
        with _Mode():
            yield GPU
    finally:
        torch.tensor, torch.cuda._lazy_init, F.dropout = plain, started, dropout
        F.scaled_dot_product_attention = _attention
