"""A tiny trained SigLIP: the towers of the demo's CLIP, trained on with SigLIP's own loss."""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPModel, PreTrainedTokenizerBase, SiglipConfig, SiglipModel

sys.path.append(str(Path(__file__).parents[1] / "demo_pretraining"))

from captions import caption
from corpus import Picture, draw_corpus
from pretrain import distinct, learning_rate_factor, to_pixel_values

from peft_coop.demo import load_clip, load_processor

# What trained SigLIPs have. A batch of 32,768 texts is what drives their bias down.
LOGIT_SCALE, FIRST_BIAS = 115.0, -12.0
TEXTS_IN_A_BATCH = 32_768
TOWER_SETTINGS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_act")


def siglip_of(clip: CLIPModel) -> SiglipModel:
    """A SigLIP with all of a CLIP's weights that have a place in it.

    What has none: the vision tower's class token and first norm. What is new: its pooling head. The text tower's layers
    read to both sides from now on, and its last position is pooled.
    """
    text, vision = clip.config.text_config.to_dict(), clip.config.vision_config.to_dict()
    config = SiglipConfig(
        text_config={name: text[name] for name in (*TOWER_SETTINGS, "vocab_size", "max_position_embeddings")}
        | {"projection_size": vision["hidden_size"], "eos_token_id": text["eos_token_id"], "bos_token_id": None},
        vision_config={name: vision[name] for name in (*TOWER_SETTINGS, "image_size", "patch_size")},
    )
    siglip, weights = SiglipModel(config), clip.state_dict()
    weights["text_model.head.weight"] = weights["text_projection.weight"]
    positions = "vision_model.embeddings.position_embedding.weight"
    weights[positions] = weights[positions][1:]
    own = siglip.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    siglip.load_state_dict(fitting, strict=False)
    siglip.logit_bias.data.fill_(FIRST_BIAS)
    return siglip


def sigmoid_loss(logits_per_image: Tensor, is_pair: Tensor, negative_weight: float = 1.0) -> Tensor:
    """SigLIP's loss: each image with each text is a yes or no; summed over texts, averaged over images.

    Args:
        logits_per_image: `[B, T]`.
        is_pair: `[B, T]`, bool.
        negative_weight: how often a "no" counts.
    """
    weights = torch.where(is_pair, 1.0, negative_weight)
    losses = functional.binary_cross_entropy_with_logits(logits_per_image, is_pair.float(), weights, reduction="none")
    return losses.sum(dim=1).mean()


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], positions: int) -> Tensor:
    """`[N, positions]`: padded to all positions and without a mask, as SigLIP reads texts."""
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=positions, return_tensors="pt")
    return padded["input_ids"]


def train(siglip: SiglipModel, pictures: list[Picture], pixels: np.ndarray, n_steps: int, batch_size: int) -> None:
    """Train in place. The logit scale rises to that of trained SigLIPs in the first half; the bias is learned."""
    rng, tokenizer = np.random.default_rng(0), load_processor().tokenizer
    positions = siglip.config.text_config.max_position_embeddings
    first_scale = load_clip().logit_scale.item()
    siglip.train().logit_scale.requires_grad_(False)
    rest = [weight for name, weight in siglip.named_parameters() if weight.requires_grad and name != "logit_bias"]
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in rest if weight.ndim > 1], "weight_decay": 0.1},
            {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
            {"params": [siglip.logit_bias], "weight_decay": 0.0, "lr": 0.05},
        ],
        lr=5e-4,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, n_steps))
    for step in tqdm(range(n_steps), desc="training SigLIP"):
        share = min(1, 2 * step / n_steps)
        siglip.logit_scale.data.fill_((1 - share) * first_scale + share * math.log(LOGIT_SCALE))
        batch = rng.integers(len(pictures), size=batch_size)
        texts, text_of_image = distinct([caption(pictures[i], rng) for i in batch])
        ids = text_ids(tokenizer, texts, positions)
        logits = siglip(input_ids=ids, pixel_values=to_pixel_values(pixels[batch])).logits_per_image
        is_pair = functional.one_hot(text_of_image, len(texts)).bool()
        loss = sigmoid_loss(logits, is_pair, negative_weight=TEXTS_IN_A_BATCH / len(texts))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(siglip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    siglip.eval()


def make_siglip(folder: Path, n_pictures: int, n_steps: int, batch_size: int = 64) -> None:
    """Draw, train and save: the model with the demo's tokenizer and image processor."""
    torch.manual_seed(0)
    pictures, pixels = draw_corpus(n_pictures, seed=0, n_processes=1)
    siglip, processor = siglip_of(load_clip()), load_processor()
    train(siglip, pictures, pixels, n_steps, batch_size)
    siglip.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
