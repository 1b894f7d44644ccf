"""Checkpoints of the original implementation (github.com/KaiyangZhou/CoOp), to adapters and back.

Such a file, `prompt_learner/model.pth.tar-50`, holds the context `ctx`, CoCoOp's `meta_net.*`, and the frozen
embeddings around the context: `token_prefix` is BOS, `token_suffix` the class name, full stop, EOS and padding. The
class names are in it as embeddings only, and where they stand in the context is not in it at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from ..methods import METHODS, ContextConfig, ContextPrompt, PromptConfig
from ..models import prompt_in_use
from ..prompts import PromptTokenizer, find_tokenizer
from ..towers import find_family, projection_dim, text_limit, token_embedding
from ..whole_files import written_whole
from . import original_tcp
from .card_sections import others_of
from .original_deep import NAMES, check_deep_exportable, convert_deep, deep_state
from .original_file import OriginalCheckpoint, load_state, read_original
from .original_names import matching_token_embedding, name_token_ids, recover_class_names, spell

__all__ = ["OriginalCheckpoint", "convert_original", "export_original", "read_original", "recover_class_names"]

# The original's names of what is learned.
LEARNED = ("ctx", *(f"meta_net.{linear}.{part}" for linear in ("linear1", "linear2") for part in ("weight", "bias")))
# Where the class name can stand in the methods' own code; CoOp's is the one that has all three.
POSITIONS = {
    "coop": ("end", "middle", "front"),
    "cocoop": ("end",),
    "kgcoop": ("end",),
    "prograd": ("end", "front"),
    "tcp": ("end",),
}
# What the fixed text behind the context can be, and is if nothing else is said.
CLASS_TEMPLATE = "{}."
CLASS_TEMPLATES = {"tcp": (CLASS_TEMPLATE, *original_tcp.TEMPLATES)}
# Of those that have a network, by what it divides the projection's width.
META_NET_REDUCTION = {"cocoop": 16, "tcp": original_tcp.META_NET_REDUCTION}


def convert_original(
    path: str | os.PathLike,
    model: nn.Module,
    output_dir: str | os.PathLike,
    *,
    method: str | None = None,
    class_names: Sequence[str] | None = None,
    class_token_position: str = "end",
    class_template: str | None = None,
    zero_shot_template: str | None = None,
    tokenizer_name_or_path: str | None = None,
) -> PromptConfig:
    """Turn a checkpoint of the original into an adapter that `PeftModel.from_pretrained(model, output_dir)` loads.

    Args:
        path: a file such as `prompt_learner/model.pth.tar-50`.
        model: the CLIP that it was learned with; it is copied, and left as it is.
        output_dir: the folder for the adapter and its model card.
        method: whose code wrote it: "coop", "cocoop", "kgcoop", "prograd" or "tcp"; None: CoOp or CoCoOp, as the file
            has a Meta-Net or not. What KgCoOp's files hold beside the context does nothing there, and is left out.
            ProGrad's cannot be told from CoOp's. Of "maple", "ivlp", "vpt" and "promptsrc", whose files hold the whole
            model, it is what was learned that is taken.
        class_names: its classes, in the order of the labels; None: those that are in the file, see
            `recover_class_names` (VPT's has none). For a unified context they may be others.
        class_token_position: as `TRAINER.COOP.CLASS_TOKEN_POSITION` in the original's config; the file does not say.
        class_template: the fixed text behind the context; None: "{}.", of MaPLe and IVLP what is left of "a photo
            of a", and of TCP what the file shows. Another one than "{}." stands in files of ProGrad that began with
            words of more tokens than words: for OxfordPets with 16 vectors it is "a {}.".
        zero_shot_template: the hand-written prompt, which no file holds; None: "a photo of a {}.", and of TCP, which
            makes the classes' vectors of it, the one of the dataset, if what stands behind the names tells that.
        tokenizer_name_or_path: the model's tokenizer; None: the model's own name or path.

    Returns:
        The adapter's settings.

    Raises:
        TypeError: if `model` is an adapter already.
        ValueError: if the file cannot be read or is not of this model, or the class names are not those of its
            class-specific context.
    """
    if isinstance(model, PeftModel):
        raise TypeError("`model` must be the CLIP without an adapter, got a PeftModel: give `model.get_base_model()`.")
    family = find_family(model)
    if method in NAMES:
        if class_token_position != "end":
            raise ValueError(
                f"{METHODS[method].title} puts the class name at the end: `class_token_position` must be 'end', got "
                f"{class_token_position!r}."
            )
        given = {"zero_shot_template": zero_shot_template, "tokenizer_name_or_path": tokenizer_name_or_path}
        given = {name: value for name, value in given.items() if value is not None}
        return convert_deep(path, model, output_dir, method, class_names, class_template, given)
    checkpoint = read_original(path, method)
    key = _settle_method(checkpoint, method, class_token_position)
    _check_fit(checkpoint, model, key, class_token_position)
    tokenizer = find_tokenizer(tokenizer_name_or_path, getattr(model, "name_or_path", None))
    if key == "tcp":
        if class_template is None:
            has_names = checkpoint.token_suffix is not None
            ids = name_token_ids(checkpoint, model, tokenizer.after[0]) if has_names else []
            class_template = original_tcp.settle_class_template(ids, tokenizer)
        zero_shot_template = original_tcp.settle_zero_shot_template(zero_shot_template, class_template, checkpoint)
    class_template = CLASS_TEMPLATE if class_template is None else class_template
    settings: dict[str, Any] = {
        "n_ctx": checkpoint.n_ctx,
        "ctx_init": None,
        "class_names": _settle_names(checkpoint, model, tokenizer, class_names, class_template),
        "class_template": class_template,
        "class_token_position": class_token_position,
        "class_specific_context": checkpoint.class_specific,
        "replaced_layer": original_tcp.REPLACED_LAYER,
        "tokenizer_name_or_path": tokenizer_name_or_path,
    }
    if checkpoint.meta_net is not None:
        settings["meta_net_reduction"] = _reduction(checkpoint, key)
    if zero_shot_template is not None:
        settings["zero_shot_template"] = zero_shot_template
    known = {each.name for each in fields(METHODS[key].config)}
    config = METHODS[key].config(**{name: value for name, value in settings.items() if name in known})
    adapter = get_peft_model(deepcopy(model), config)
    learned = {"ctx": checkpoint.ctx, **(checkpoint.meta_net or {})}
    prefix = f"base_model.model.{family.embeddings}."
    set_peft_model_state_dict(adapter, {prefix + _saved_name(config, key): value for key, value in learned.items()})
    adapter.save_pretrained(output_dir)
    return config


def classes_in_original(path: str | os.PathLike, method: str | None = None) -> int | None:
    """How many classes a checkpoint of the original was learned with; None where it does not say.

    Args:
        path: the file.
        method: whose code wrote it, as for `convert_original`.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    if method in NAMES:
        suffix = load_state(Path(path))[0].get("prompt_learner.token_suffix")
    else:
        suffix = read_original(path, method).token_suffix
    return None if suffix is None else len(suffix)


def _saved_name(config: PromptConfig, key: str) -> str:
    """The name in an adapter's file of what the original calls `key`."""
    return f"{config.peft_type.value.lower()}_{key.replace('meta_net.', 'meta_net_')}"


def _settle_method(checkpoint: OriginalCheckpoint, method: str | None, class_token_position: str) -> str:
    """The key of the method that wrote a checkpoint.

    Raises:
        ValueError: if it has no such checkpoints, or the file is not one of them.
    """
    if method not in (None, *POSITIONS):
        readable = (*POSITIONS, *NAMES)
        raise ValueError(f"`method` must be one of {readable}, whose checkpoints can be read; got {method!r}.")
    in_file = "coop" if checkpoint.meta_net is None else "cocoop"
    has_none = method in POSITIONS and method not in META_NET_REDUCTION
    if (method in META_NET_REDUCTION and in_file == "coop") or (has_none and in_file != "coop"):
        holds = "no Meta-Net" if in_file == "coop" else "a Meta-Net"
        raise ValueError(f"{checkpoint.path} is not of {METHODS[str(method)].title}: it has {holds}.")
    key = method or in_file
    if in_file == "coop" and class_token_position in POSITIONS["coop"]:
        _check_position(key, class_token_position)
    return key


def _check_position(key: str, class_token_position: str) -> None:
    if class_token_position not in POSITIONS[key]:
        raise ValueError(
            f"The original's {METHODS[key].title} cannot have the class name at the {class_token_position!r}: it has "
            f"{' and '.join(map(repr, POSITIONS[key]))}."
        )


def _check_fit(checkpoint: OriginalCheckpoint, model: nn.Module, key: str, class_token_position: str) -> None:
    """Check a checkpoint's sizes against the base model's."""
    matching_token_embedding(checkpoint, model)
    limit = text_limit(model)
    if checkpoint.token_suffix is not None:
        n_tokens = checkpoint.token_suffix.shape[1]
        if 1 + checkpoint.n_ctx + n_tokens != limit:
            raise ValueError(
                f"{checkpoint.path} is not of this base model: its prompts have {1 + checkpoint.n_ctx + n_tokens} "
                f"tokens (BOS 1, context {checkpoint.n_ctx}, `token_suffix` {n_tokens}), and the text tower reads "
                f"{limit}."
            )
    if checkpoint.meta_net is None:
        return
    projection = checkpoint.meta_net["meta_net.linear1.weight"].shape[1]
    if projection != projection_dim(model):
        raise ValueError(
            f"{checkpoint.path} is not of this base model: its Meta-Net reads image features of {projection} "
            f"dimensions, and this model's have {projection_dim(model)}."
        )
    if class_token_position != "end":
        raise ValueError(
            f"{checkpoint.path} is of {METHODS[key].title}, which puts the class name at the end: "
            f"`class_token_position` must be 'end', got {class_token_position!r}."
        )


def _reduction(checkpoint: OriginalCheckpoint, key: str) -> int:
    """By which whole number the Meta-Net divides P to get its hidden units."""
    hidden, projection = cast(dict[str, Tensor], checkpoint.meta_net)["meta_net.linear1.weight"].shape
    reduction = projection // hidden if hidden else 0
    if not reduction or projection // reduction != hidden:
        raise ValueError(
            f"{checkpoint.path}: no `meta_net_reduction` gives {hidden} hidden units for image features of "
            f"{projection} dimensions; the original's Meta-Net has {projection // META_NET_REDUCTION[key]}."
        )
    return reduction


def _settle_names(
    checkpoint: OriginalCheckpoint,
    model: nn.Module,
    tokenizer: PromptTokenizer,
    class_names: Sequence[str] | None,
    template: str,
) -> list[str]:
    """The adapter's class names: those given, where they may be given, or those in the file."""
    if class_names is None:
        return recover_class_names(checkpoint, model, tokenizer, template)
    names = list(class_names)
    if checkpoint.class_specific and len(names) != len(checkpoint.ctx):
        raise ValueError(
            f"{checkpoint.path} has a class-specific context for {len(checkpoint.ctx)} classes, got {len(names)} "
            "`class_names`."
        )
    if checkpoint.token_suffix is not None:  # also tells whether it is of this base model
        _check_order(checkpoint, names, name_token_ids(checkpoint, model, tokenizer.after[0]), tokenizer, template)
    return names


def _check_order(
    checkpoint: OriginalCheckpoint,
    names: list[str],
    ids_in_file: list[list[int]],
    tokenizer: PromptTokenizer,
    template: str,
) -> None:
    if not checkpoint.class_specific:
        return
    for index, (given, ids) in enumerate(zip(tokenizer.encode_names(names, template), ids_in_file, strict=True)):
        if list(given.ids) != ids:
            own = spell(ids, index, checkpoint, tokenizer, template)
            raise ValueError(
                f"{checkpoint.path} has a class-specific context, and its class {index} is {own!r}, not "
                f"{given.name!r}: give the names in its order."
            )


def export_original(model: PeftModel, path: str | os.PathLike, epoch: int = 0) -> None:
    """Write the adapter in use as a checkpoint that the original loads.

    The position of the class name is not part of it: set `TRAINER.COOP.CLASS_TOKEN_POSITION` in the original's config,
    and `N_CTX` and `CSC` beside it.

    Args:
        model: a CLIP with an adapter of CoOp, CoCoOp, KgCoOp, ProGrad, TCP, MaPLe, IVLP, VPT or PromptSRC,
            and its classes.
        path: the file to write; the original looks for `prompt_learner/model.pth.tar-EPOCH`.
        epoch: which the original prints when it loads the file.

    Raises:
        TypeError: if the model has no learned prompt.
        ValueError: if the adapter has no classes, or is of a kind that the original has not.
        OSError: if the file cannot be written.
    """
    layer, name = prompt_in_use(model)
    config = model.peft_config[name]
    _check_exportable(config, projection_dim(model.get_base_model()))
    _check_nothing_else_is_needed(model, config)
    saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    learned = {key.rpartition(".embeddings.")[2]: value for key, value in saved.items()}
    table = token_embedding(model.get_base_model()).weight.detach()
    state_dict = {}
    if layer.prompt.changes_text:
        prefix, suffix = _frozen_parts(layer.prompt, layer.texts.class_names, table)
        state_dict = {"token_prefix": prefix, "token_suffix": suffix}
    if config.method in NAMES:
        state_dict = {f"prompt_learner.{key}": value for key, value in state_dict.items()}
        state_dict |= deep_state(learned, config)
    else:
        names = {key: _saved_name(config, key) for key in LEARNED}
        state_dict |= {key: learned[ours] for key, ours in names.items() if ours in learned}
    state_dict = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    _write({"state_dict": state_dict, "epoch": epoch}, Path(path))


def _write(contents: dict[str, Any], path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    buffer = BytesIO()  # where `torch.save` itself cannot write to a file, it raises a RuntimeError
    torch.save(contents, buffer)
    with written_whole(path) as draft:
        draft.write_bytes(buffer.getbuffer())


def _check_exportable(config: PromptConfig, width: int) -> None:
    if config.method not in (*POSITIONS, *NAMES):
        raise ValueError(
            f"The checkpoints of original code that can be written are those of {', '.join((*POSITIONS, *NAMES))}, and "
            f"this adapter is of {config.method!r}: it cannot be exported."
        )
    if config.class_names is None:
        raise ValueError("The original's checkpoints have classes, and this adapter has none: call `set_classes`.")
    if config.method in NAMES:
        check_deep_exportable(config)
        return
    context = cast(ContextConfig, config)
    position, templates = context.class_token_position, CLASS_TEMPLATES.get(config.method, (CLASS_TEMPLATE,))
    kinds = {
        f"the class name at the {position!r}": position not in POSITIONS[config.method],
        f"{context.class_template!r} behind the context": context.class_template not in templates,
    }
    if config.method in META_NET_REDUCTION:
        reductions = cast(Any, config).meta_net_reduction, META_NET_REDUCTION[config.method]
        units, own = (width // each for each in reductions)
        kinds["a class-specific context"] = context.class_specific_context
        kinds[f"a Meta-Net of {units} hidden units for {width} dimensions"] = units != own
    if config.method == "tcp":
        kinds |= original_tcp.what_tcp_cannot_have(config)
    title = METHODS[config.method].title
    for kind, is_so in kinds.items():
        if is_so:
            raise ValueError(
                f"The original's {title} cannot have {kind}, and this adapter does: it cannot be exported."
            )


def _check_nothing_else_is_needed(model: PeftModel, config: PromptConfig) -> None:
    needed = [f"the {other.peft_type.value} {name!r}" for name, other in others_of(model).items()]
    needed += [f"{name!r} of the base model" for name in config.modules_to_save or ()]
    if needed:
        raise ValueError(
            f"The original's checkpoints hold a prompt and nothing else, and this one was learned with "
            f"{', '.join(needed)}: without them it gives other numbers, so it is not exported."
        )


def _frozen_parts(prompt: ContextPrompt, class_names: Sequence[str], table: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings `[V, D]` of BOS as `[C, 1, D]`, and of name, full stop, EOS and padding `[C, S, D]`."""
    tokenizer = prompt.reader.tokenizer
    names = tokenizer.encode_names(class_names, prompt.settings.class_template)
    room = prompt.reader.max_length - 1 - prompt.n_ctx
    # The original pads with zeros, whatever the token 0 is.
    suffixes = [[*each.ids, *tokenizer.after, *[0] * room][:room] for each in names]
    bos = torch.full((len(names), 1), tokenizer.before[0], device=table.device)
    return table[bos], table[torch.tensor(suffixes, device=table.device)]
