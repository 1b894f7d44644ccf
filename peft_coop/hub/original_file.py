"""The file format of the original implementation's checkpoints (github.com/KaiyangZhou/CoOp), read safely.

Letters: C classes, M context vectors, S tokens of the suffix, D text width, P projection width, H hidden units.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..untrusted_files import load_torch_file

AXES = {
    "token_prefix": ("classes", "BOS", "width"),
    "token_suffix": ("classes", "tokens", "width"),
    "meta_net.linear1.weight": ("hidden units", "projection"),
    "meta_net.linear1.bias": ("hidden units",),
    "meta_net.linear2.weight": ("width", "hidden units"),
    "meta_net.linear2.bias": ("width",),
}
# TCP's network makes all vectors of a class.
AXES_OF = {
    "tcp": {
        "meta_net.linear2.weight": ("vectors times width", "hidden units"),
        "meta_net.linear2.bias": ("vectors times width",),
    }
}
# What a method's file holds that its forward does not use.
UNUSED = {"kgcoop": ("bias_vectors", "meta_net.")}
# Of what later methods' files hold, which are those of whole models.
WHOLE_MODEL = {"prompt_learner.ctx", "image_encoder.VPT"}
CTX_AXES = {2: ("vectors", "width"), 3: ("classes", "vectors", "width")}

# What lies beside the tensors: the scheduler's state holds a scheduler, and that an optimizer.
STATE_OF_TRAINING = (
    "builtins.dict",
    "dassl.optim.radam.PlainRAdam",
    "dassl.optim.radam.RAdam",
    "dassl.optim.radam.AdamW",
    "numpy.dtype",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.optim.lr_scheduler.MultiStepLR",
    "torch.optim.lr_scheduler.StepLR",
    "torch.optim.rmsprop.RMSprop",
    "torch.optim.sgd.SGD",
)


@dataclass(frozen=True)
class OriginalCheckpoint:
    """What a checkpoint of the original holds, in float32.

    Attributes:
        path: the file.
        ctx: `[M, D]`, or `[C, M, D]` when class-specific.
        token_prefix: `[C, 1, D]`, the embedding of BOS; None if the file has none.
        token_suffix: `[C, S, D]`, the embeddings of name, full stop, EOS and padding; None if the file has none.
        meta_net: the four tensors of CoCoOp's or TCP's network by their names in the file; None in one of CoOp.
        epoch: after how many epochs it was saved; None if the file does not say.
    """

    path: Path
    ctx: Tensor
    token_prefix: Tensor | None
    token_suffix: Tensor | None
    meta_net: dict[str, Tensor] | None
    epoch: int | None

    @property
    def n_ctx(self) -> int:
        """M, the context vectors of a prompt."""
        return self.ctx.shape[-2]

    @property
    def class_specific(self) -> bool:
        """Whether every class has vectors of its own."""
        return self.ctx.ndim == 3


def read_original(path: str | os.PathLike, method: str | None = None) -> OriginalCheckpoint:
    """Read a checkpoint of the original, without running anything that it may contain.

    Args:
        path: a file such as `prompt_learner/model.pth.tar-50`, in any precision, of one GPU or of several.
        method: whose code wrote it; None: CoOp's or CoCoOp's.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not such a checkpoint, or its tensors do not fit together.
    """
    path = Path(path)
    tensors, epoch = load_state(path)
    unused = UNUSED.get(method or "", ())
    tensors = {key: value for key, value in tensors.items() if not key.startswith(unused)}
    _check_keys(tensors, path)
    tensors = {key: value.detach().float() for key, value in tensors.items()}
    _check_tensors(tensors, path, {**AXES, **AXES_OF.get(method or "", {})})
    meta_net = {key: value for key, value in tensors.items() if key.startswith("meta_net.")}
    return OriginalCheckpoint(
        path=path,
        ctx=tensors["ctx"],
        token_prefix=tensors.get("token_prefix"),
        token_suffix=tensors.get("token_suffix"),
        meta_net=meta_net or None,
        epoch=epoch,
    )


def load_state(path: Path) -> tuple[dict[str, Any], int | None]:
    """A checkpoint's tensors by their names, and after how many epochs it was saved, if it says.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not such a checkpoint.
    """
    contents = _load(path)
    state_dict = contents.get("state_dict") if isinstance(contents, dict) else None
    if not isinstance(state_dict, dict):
        held = ", ".join(map(str, contents)) if isinstance(contents, dict) else type(contents).__name__
        raise ValueError(f"{path} is no checkpoint of CoOp: it has no `state_dict`, it holds {held or 'nothing'}.")
    epoch = contents.get("epoch")
    tensors = {str(key).removeprefix("module."): value for key, value in state_dict.items()}
    return tensors, epoch if isinstance(epoch, int) else None


class _Ignored:
    """Takes the place of an object that is not needed."""

    def __new__(cls, *args: Any) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainDict:
    """Takes the place of a `defaultdict`, which torch refuses to fill."""

    def __new__(cls, *args: Any) -> Any:
        return {}


def _stand_in(full_name: str, base: type) -> type:
    """A class that torch takes for the one of this name."""
    module, _, name = full_name.rpartition(".")
    return type(name, (base,), {"__module__": module})


def _load(path: Path) -> Any:
    stand_ins: list[Any] = [_stand_in("collections.defaultdict", _PlainDict)]
    stand_ins += [_stand_in(name, _Ignored) for name in STATE_OF_TRAINING]
    return load_torch_file(path, stand_ins)


def _check_keys(tensors: dict[str, Any], path: Path) -> None:
    """Check that there are the tensors of CoOp or CoCoOp, and no others."""
    listed = ", ".join(sorted(tensors)) or "nothing"
    if "ctx" not in tensors:
        if WHOLE_MODEL & tensors.keys():
            raise ValueError(
                f"{path} holds a whole model with prompts at its layers: say of which method it is, such as "
                '`method="maple"`.'
            )
        raise ValueError(f"{path} is no checkpoint of CoOp: its `state_dict` has no `ctx`, it holds {listed}.")
    unknown = sorted(key for key in tensors if key != "ctx" and key not in AXES)
    if unknown:
        hint = ' KgCoOp\'s files do: give `method="kgcoop"`.' if "bias_vectors" in unknown else ""
        raise ValueError(f"{path} is of another method than CoOp and CoCoOp: it also holds {', '.join(unknown)}.{hint}")
    meta_net = [key for key in AXES if key.startswith("meta_net.")]
    missing = [key for key in meta_net if key not in tensors]
    if 0 < len(missing) < len(meta_net):
        raise ValueError(f"{path} has only a part of CoCoOp's Meta-Net: {', '.join(missing)} is missing.")
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} is no checkpoint of CoOp: `{key}` is no tensor but a {type(value).__name__}.")


def _check_tensors(tensors: dict[str, Tensor], path: Path, axes_beside: Mapping[str, tuple[str, ...]]) -> None:
    """Check that every axis is as long as the same axis of the other tensors, and every number is one."""
    sizes = {"BOS": (1, "every checkpoint"), "vectors times width": (tensors["ctx"].numel(), "`ctx`")}
    axes_of = {"ctx": CTX_AXES.get(tensors["ctx"].ndim, CTX_AXES[2]), **axes_beside}
    for key in [key for key in axes_of if key in tensors]:
        shape, axes = tuple(tensors[key].shape), axes_of[key]
        if len(shape) != len(axes):
            raise ValueError(f"{path}: `{key}` should be ({', '.join(axes)}), got a tensor of shape {shape}.")
        for axis, size in zip(axes, shape, strict=True):
            known, where = sizes.setdefault(axis, (size, f"`{key}`"))
            if size != known:
                is_tcps = key.startswith("meta_net.linear2") and size == tensors["ctx"].numel()
                hint = ' TCP\'s files have that: give `method="tcp"`.' if is_tcps else ""
                raise ValueError(
                    f"{path}: `{key}` is {shape}, which stands for ({', '.join(axes)}), and {axis} is {known} in "
                    f"{where}.{hint}"
                )
        if not tensors[key].isfinite().all():
            raise ValueError(f"{path}: `{key}` holds numbers that are not finite: the training that wrote it diverged.")
