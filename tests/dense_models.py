"""A tiny CLIP with DenseCLIP, and images for it."""

import torch
from conftest import make_clip
from peft import PeftModel, get_peft_model
from torch import Tensor

from peft_coop import DenseCLIPConfig

NAMES = ["sky", "tree", "car"]
SMALL = {"decoder_width": 16, "decoder_layers": 1, "decoder_heads": 2, "head_channels": 8, "out_indices": (0, 0, 1, 1)}
SMALL |= {"train_vision": False, "n_ctx": 3, "max_class_tokens": 9}
# Nothing is left out at random.
STILL = {"decoder_dropout": 0.0, "head_dropout": 0.0, "drop_path": 0.0}


def make_config(tokenizer_path: str, **settings) -> DenseCLIPConfig:
    return DenseCLIPConfig(**{"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, **SMALL, **settings})


def make_model(tokenizer_path: str, perturbed: bool = True, **settings) -> PeftModel:
    """In float64 and evaluation mode, its adapter not the one that it started with."""
    torch.manual_seed(0)
    model = get_peft_model(make_clip().double(), make_config(tokenizer_path, **settings)).eval()
    return perturb(model) if perturbed else model


@torch.no_grad()
def perturb(model: PeftModel, seed: int = 3) -> PeftModel:
    """Weights and statistics moved, the decoder's share of the texts so large that it counts."""
    random = torch.Generator().manual_seed(seed)
    prompt = model.prompt_layer.prompt
    for tensor in (*prompt.parameters(), *prompt.buffers()):
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand(tensor.shape, generator=random, dtype=tensor.dtype)
    return model


def some_images() -> Tensor:
    """Two of 24 x 32 pixels: 3 x 4 places."""
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1)).double()


def some_labels() -> Tensor:
    """Of these; some pixels do not count."""
    labels = torch.randint(3, (2, 24, 32), generator=torch.Generator().manual_seed(2))
    labels[:, :5] = 255
    return labels


def evaluated(model: PeftModel, images: Tensor):
    with torch.no_grad():
        return model.eval()(pixel_values=images)
