"""The image tower beside the text side: classifying images, and training from pixels or from features computed once."""

from statistics import median

import torch
from cases import WIDTH, Case, load_names, make_vectors, sequences_of
from peft import get_peft_model
from timing import timed
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel

from peft_coop import CoOpConfig
from peft_coop.demo import MODEL_PATH
from peft_coop.towers import text_tower
from peft_coop.towers.tree_prompts import TreePrompts

TRAINED = ((Case("Caltech101", 102), 32), (Case("OxfordPets", 37, 4, images=8), 8))
SMALL = ((Case("Caltech101", 5), 4), (Case("OxfordPets", 5, 4, images=2), 2))


def make_image_clip(patch_size: int, layers: int = 12, image_size: int = 224) -> CLIPModel:
    """ViT-B with random weights, frozen; the text tower has as many layers as the other."""
    torch.manual_seed(0)
    vision = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=patch_size)
    vision |= dict(num_hidden_layers=layers, image_size=image_size)
    text = dict(num_hidden_layers=layers)
    return (
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).eval().requires_grad_(False)
    )


def inference() -> dict:
    """Classifying images: seconds per batch of the bare vision tower, and of the whole model after its first batch."""
    clip = make_image_clip(patch_size=32)
    names = [row.name for row in load_names()["Caltech101"]]
    # The weights are random, so any tokenizer whose ids exist will do; this one needs no download.
    config = CoOpConfig(n_ctx=16, class_names=names, tokenizer_name_or_path=MODEL_PATH)
    model = get_peft_model(clip, config).eval()
    images = torch.randn(32, 3, 224, 224)
    bare, whole = [], []
    with torch.no_grad():
        model(pixel_values=images)
        for _ in range(7):
            bare.append(timed(lambda: clip.get_image_features(images)))
            whole.append(timed(lambda: model(pixel_values=images)))
    ratios = [one / other for one, other in zip(whole, bare, strict=True)]
    return {"images": len(images), "vision_seconds": median(bare), "seconds": median(whole), "ratio": median(ratios)}


def cached_features(repeats: int, small: bool = False) -> list[dict]:
    """Training steps from pixels and from features computed once, in turn, of ViT-B/16; and of a linear head on these.

    Args:
        repeats: rounds.
        small: few classes, a vision tower of one layer and few patches: to try it out.
    """
    clip = make_image_clip(16, layers=1, image_size=32) if small else make_image_clip(16)
    text_tower(clip).install()
    return [_training_steps(clip, case, batch, repeats) for case, batch in (SMALL if small else TRAINED)]


def _training_steps(clip: CLIPModel, case: Case, batch: int, repeats: int) -> dict:
    prompts, vectors = TreePrompts(sequences_of(case)), make_vectors(case)
    images = torch.randn(batch, 3, clip.config.vision_config.image_size, clip.config.vision_config.image_size)
    labels = torch.arange(batch) % case.n_cls

    def image_features():
        with torch.no_grad():
            return normalize(clip.get_image_features(images).pooler_output, dim=-1)

    def step(features):
        texts = normalize(text_tower(clip).encode(prompts, vectors), dim=-1)
        logits = torch.einsum("bp,bcp->bc" if case.images else "bp,cp->bc", features, texts)
        cross_entropy(100 * logits, labels).backward()

    features, head = image_features(), torch.nn.Linear(WIDTH, case.n_cls)
    steps = {
        "cached": lambda: step(features),
        "pixels": lambda: step(image_features()),
        "head": lambda: cross_entropy(head(features), labels).backward(),
    }
    times = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, run in steps.items():
            seconds = timed(run)
            times[name] += [seconds] if number else []  # the first round warms up
    ratios = [one / other for one, other in zip(times["pixels"], times["cached"], strict=True)]
    seconds = {f"{name}_seconds": median(values) for name, values in times.items()}
    return {"label": case.label, "batch": batch, **seconds, "ratio": median(ratios)}
