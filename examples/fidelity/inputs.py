"""What both implementations read: photographs in the original's layout, and one small random CLIP in both formats."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

COUNTS = {"train": 40, "val": 8, "test": 20}
# Heads of 64, as the original counts them; the published size of pictures.
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT |= {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": 224, "patch_size": 32}
ENDS = ("weight", "bias")


def lay_out_photographs(images: Path, data: Path, class_names: list[str] | None = None) -> None:
    """Write `split_zhou_Caltech101.json` over photographs in `train/CLASS` and `test/CLASS`.

    The original has no dataset of folders, so they stand in the place of Caltech101.
    The classes are called after their folders, or as `class_names` says.
    """
    folder = data / "caltech-101"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "101_ObjectCategories").unlink(missing_ok=True)
    (folder / "101_ObjectCategories").symlink_to(images.absolute(), target_is_directory=True)
    split: dict[str, list] = {name: [] for name in COUNTS}
    for label, place in enumerate(sorted((images / "train").iterdir())):
        files = sorted(place.glob("*.jpg")), sorted((images / "test" / place.name).glob("*.jpg"))
        trained = COUNTS["train"], COUNTS["train"] + COUNTS["val"]
        parts = {"train": files[0][: trained[0]], "val": files[0][slice(*trained)], "test": files[1][: COUNTS["test"]]}
        for name, chosen in parts.items():
            called = class_names[label] if class_names else place.name
            split[name] += [[str(file.relative_to(images)), label, called] for file in chosen]
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(split))


def make_small_clip(merges_file: Path, folder: Path, seed: int = 0) -> None:
    """Save a random CLIP with CLIP's own tokenizer to a folder, and as `openai.pt` with the original's names.

    Its weights are rounded to float16, as the original rounds those that it loads. The logit scale is that of the
    published models, 100.
    """
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((3 * parameter if parameter.ndim == 2 else parameter).half().float())
        model.logit_scale.fill_(math.log(100))
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(merges_file, folder)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    torch.save(openai_names(model.state_dict()), folder / "openai.pt")


def write_vocabulary(merges_file: Path, folder: Path) -> None:
    """CLIP's vocabulary follows from its merges, of which the published file has more than are used."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in visible] + [chr(256 + index) for index in range(256 - len(visible))]
    lines = gzip.decompress(merges_file.read_bytes()).decode("utf-8").splitlines()
    merges = lines[1 : 1 + TEXT["vocab_size"] - 2 * len(letters) - 2]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def openai_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `CLIPModel` by the names that OpenAI's checkpoints have."""
    renamed = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T.contiguous(),
        "logit_scale": weights["logit_scale"],
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": weights["visual_projection.weight"].T.contiguous(),
    }
    for norm, ours in {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }.items():
        renamed |= {f"{norm}.{end}": weights[f"{ours}.{end}"] for end in ("weight", "bias")}
    for prefix, tower in (("", "text_model"), ("visual.", "vision_model")):
        layers = {name.split(".")[3] for name in weights if name.startswith(f"{tower}.encoder.layers.")}
        for layer in layers:
            block = f"{prefix}transformer.resblocks.{layer}"
            renamed |= _block(weights, f"{tower}.encoder.layers.{layer}", block)
    return renamed


def _block(weights: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    block = {f"{theirs}.{to}.{end}": weights[f"{ours}.{name}.{end}"] for to, name in names.items() for end in ENDS}
    for end in ENDS:
        parts = [weights[f"{ours}.self_attn.{part}_proj.{end}"] for part in "qkv"]
        block[f"{theirs}.attn.in_proj_{end}"] = torch.cat(parts)
    return block
