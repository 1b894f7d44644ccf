"""Every family of dual encoders: a small random model of the real class, its tokenizer, and its own logits.

What differs between families is data here. `TinyFamily.own_logits` is the slow, obvious reference: the texts tokenised
as the family's released processor does it, and the family's own forward.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tiny_tokenizers as tokenizers
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Every width differs, so that a swapped axis cannot pass by luck: text 24, vision 32, projection 40, positions 21.
LAYERS = {"num_hidden_layers": 2, "intermediate_size": 44}
TEXT = {"hidden_size": 24, "num_attention_heads": 2, "max_position_embeddings": 21, **LAYERS}
VISION = {"hidden_size": 32, "num_attention_heads": 4, "image_size": 16, "patch_size": 8, **LAYERS}
PROJECTION = {"projection_dim": 40}
# OpenAI's checkpoints say these, and they are wrong: `eos_token_id` 2 makes the tower look for the highest id.
OPENAI_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
# XLM-R's ids, and RoBERTa's: of its 23 positions, counted from the pad id on, 21 are left.
XLM_R_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
ROBERTA = {**TEXT, **XLM_R_IDS, "max_position_embeddings": 23}
BERT = {**TEXT, "pad_token_id": 0}
EFFICIENTNET = {
    "in_channels": [32, 12], "out_channels": [12, 40], "kernel_sizes": [3, 3], "strides": [1, 2],
    "num_block_repeats": [1, 1], "expand_ratios": [1, 2], "width_coefficient": 1.0, "depth_coefficient": 1.0,
    "depth_divisor": 4, "hidden_dim": 48, "image_size": 16,
}  # fmt: skip
GROUPS = {
    "hidden_size": 32, "num_attention_heads": 4, "image_size": 16, "patch_size": 4, "intermediate_size": 44,
    "num_hidden_layers": 2, "depths": [1, 1], "num_group_tokens": [3, 0], "num_output_groups": [3, 2],
}  # fmt: skip

BOS_EOS = (["<|startoftext|>"], ["<|endoftext|>"])
CLS_SEP = (["[CLS]"], ["[SEP]"])
S_S = (["<s>"], ["</s>"])
TO_ALL_POSITIONS = {"padding": "max_length", "truncation": True, "max_length": 21}


@dataclass(frozen=True)
class TinyFamily:
    """One family of dual encoders.

    Attributes:
        key: its name here, unique; the model type, and what stands behind a dot where that is not enough.
        model_class: name of the class in transformers.
        tokenizer: makes the tokenizer; gets the path of a file that it may write, and settings.
        frame: the tokens that the tokenizer puts before and behind a text.
        text: settings of the text tower, without the vocabulary.
        vision: settings of the vision tower.
        settings: of the whole model.
        tokenize: how the released processor calls the tokenizer.
        positions: the tokens that the text tower reads at most, those around a text included.
        causal: whether a state of the text tower depends only on what stands before it.
        scale: name of the parameter with the logits' scale, or with the temperature that they are divided by.
        names_eos: whether the text tower's config must name EOS, where the tower looks for it.
        vision_key: of the vision tower in the config.
        naflex: whether images are patches, with a mask and a shape for each.
    """

    key: str
    model_class: str
    tokenizer: Callable[..., PreTrainedTokenizerBase]
    frame: tuple[list[str], list[str]]
    text: Mapping = field(default_factory=lambda: TEXT)
    vision: Mapping = field(default_factory=lambda: VISION)
    settings: Mapping = field(default_factory=lambda: PROJECTION)
    tokenize: Mapping = field(default_factory=lambda: {"padding": True})
    positions: int = 21
    causal: bool = False
    scale: str = "logit_scale"
    names_eos: bool = False
    vision_key: str = "vision_config"
    naflex: bool = False

    @property
    def model_type(self) -> str:
        """What the model's config calls the family."""
        return self.key.partition(".")[0]

    def make_tokenizer(self, folder: str | Path) -> PreTrainedTokenizerBase:
        """The tokenizer, saved in a folder so that `AutoTokenizer.from_pretrained` loads it from there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        tokenizer = self.tokenizer(str(Path(folder) / "tokenizer.model"), model_max_length=self.positions)
        tokenizer.save_pretrained(folder)
        return tokenizer

    @cached_property
    def text_config(self) -> dict:
        """Settings of the text tower, those that follow from the vocabulary included."""
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = self.make_tokenizer(folder)
        eos = {"eos_token_id": tokenizer.eos_token_id} if self.names_eos else {}
        return {**self.text, "vocab_size": len(tokenizer), **eos}

    def make_model(self, seed: int = 0) -> PreTrainedModel:
        """A random model of the real class, float32, in evaluation mode; texts and images differ clearly in it."""
        model_class = getattr(transformers, self.model_class)
        parts = {"text_config": self.text_config, self.vision_key: dict(self.vision)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_class(model_class.config_class(**parts, **self.settings))
            draw_weights(model)
        return model.eval()

    def image_inputs(self, batch: int = 3, seed: int = 1) -> dict[str, Tensor]:
        """Images as the family's processor gives them; a NaFlex batch is of several shapes."""
        random = torch.Generator().manual_seed(seed)
        if not self.naflex:
            return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=random)}
        shapes = torch.tensor([[3, 2], [2, 2], [1, 5]])[torch.arange(batch) % 3]
        mask = (torch.arange(6) < shapes.prod(dim=1, keepdim=True)).long()
        patches = torch.randn(batch, 6, 3 * 8 * 8, generator=random) * mask[..., None]
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def text_inputs(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts as the family's released processor gives them."""
        return dict(tokenizer(list(texts), return_tensors="pt", **self.tokenize))

    @torch.no_grad()
    def own_logits(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        images: Mapping[str, Tensor],
        texts: Sequence[str],
    ) -> Tensor:
        """What the family's own forward says of images and texts, `[B, C]`."""
        dtype = next(model.parameters()).dtype
        images = {name: value.to(dtype) if value.is_floating_point() else value for name, value in images.items()}
        inputs = {**self.text_inputs(tokenizer, texts), **images}
        if self.model_type == "flava":
            return flava_logits(model, inputs)
        return model(**inputs).logits_per_image


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Draw all weights anew, so large that each input counts; statistics of batches too, as if they had been seen."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("logit_scale", "logit_bias", "temperature"):
                continue
            if parameter.ndim > 1:
                std = 1.0 if isinstance(module, nn.Embedding) else parameter[0].numel() ** -0.5
                parameter.normal_(std=std)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    if hasattr(model, "logit_bias"):  # as trained SigLIPs have them
        model.logit_scale.fill_(4.7)
        model.logit_bias.fill_(-12.0)


def flava_logits(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """FLAVA's contrastive logits: its own forward gives none, `FlavaForPreTraining` makes them like this."""
    states = model(**inputs, skip_multimodal_encoder=True)
    image_embeds = nn.functional.normalize(model.image_projection(states.image_embeddings[:, 0]), dim=-1)
    text_embeds = nn.functional.normalize(model.text_projection(states.text_embeddings[:, 0]), dim=-1)
    return model.logit_scale.exp() * image_embeds @ text_embeds.T


FAMILIES = {
    family.key: family
    for family in (
        TinyFamily(
            "clip", "CLIPModel", tokenizers.clip, BOS_EOS, text={**TEXT, **OPENAI_IDS}, causal=True
        ),
        TinyFamily(
            "metaclip_2", "MetaClip2Model", tokenizers.xlm_roberta, S_S, text={**TEXT, **XLM_R_IDS}, causal=True
        ),
        TinyFamily("clipseg", "CLIPSegModel", tokenizers.clip, BOS_EOS, causal=True, names_eos=True),
        TinyFamily(
            "groupvit", "GroupViTModel", tokenizers.clip, BOS_EOS, vision=GROUPS, causal=True, names_eos=True,
            settings={**PROJECTION, "projection_intermediate_dim": 36},
        ),
        TinyFamily(  # by torch's own attention the tower is causal only in a batch that holds a pad
            "aimv2", "Aimv2Model", tokenizers.clip, BOS_EOS, causal=True, names_eos=True, tokenize=TO_ALL_POSITIONS,
            settings={**PROJECTION, "logit_scale_init_value": 5.0},  # more than the 100 that it is clamped to
        ),
        TinyFamily(
            "owlvit", "OwlViTModel", tokenizers.owl, BOS_EOS, text={**TEXT, "max_position_embeddings": 16}, causal=True,
            tokenize={**TO_ALL_POSITIONS, "max_length": 16}, positions=16,
        ),
        TinyFamily(
            "owlv2", "Owlv2Model", tokenizers.owl, BOS_EOS, text={**TEXT, "max_position_embeddings": 16}, causal=True,
            tokenize={**TO_ALL_POSITIONS, "max_length": 16}, positions=16,
        ),
        TinyFamily(
            "siglip", "SiglipModel", tokenizers.siglip, ([], ["</s>"]), text={**TEXT, "projection_size": 32},
            settings={}, tokenize=TO_ALL_POSITIONS,
        ),
        TinyFamily(  # the fixed-size SigLIP 2
            "siglip.2", "SiglipModel", tokenizers.siglip2, ([], ["<eos>"]), text={**TEXT, "projection_size": 32},
            settings={}, tokenize=TO_ALL_POSITIONS,
        ),
        TinyFamily(
            "siglip2", "Siglip2Model", tokenizers.siglip2, ([], ["<eos>"]), text={**TEXT, "projection_size": 32},
            vision={"hidden_size": 32, "num_attention_heads": 4, "patch_size": 8, "num_patches": 9, **LAYERS},
            settings={}, tokenize=TO_ALL_POSITIONS, naflex=True,
        ),
        TinyFamily("chinese_clip", "ChineseCLIPModel", tokenizers.bert, CLS_SEP, text=BERT),
        TinyFamily(
            "altclip", "AltCLIPModel", tokenizers.xlm_roberta, S_S, text={**ROBERTA, "project_dim": 28}
        ),
        TinyFamily(
            "align", "AlignModel", tokenizers.bert, CLS_SEP, text=BERT, vision=EFFICIENTNET,
            settings={**PROJECTION, "temperature_init_value": 0.1}, tokenize=TO_ALL_POSITIONS, scale="temperature",
        ),
        TinyFamily(
            "vision-text-dual-encoder", "VisionTextDualEncoderModel", tokenizers.bert, CLS_SEP,
            text={**BERT, "model_type": "bert"}, vision={**VISION, "model_type": "vit"},
        ),
        TinyFamily(
            "vision-text-dual-encoder.roberta-clip", "VisionTextDualEncoderModel", tokenizers.roberta, S_S,
            text={**ROBERTA, "model_type": "roberta"}, vision={**VISION, "model_type": "clip_vision_model"},
        ),
        TinyFamily(  # no projections: text, image and feature are of one width
            "tipsv2", "Tipsv2Model", tokenizers.tipsv2, ([], []), text={**TEXT, "hidden_size": 32},
            settings={"temperature_init_value": 0.1}, tokenize=TO_ALL_POSITIONS, scale="temperature",
        ),
        TinyFamily(
            "flava", "FlavaModel", tokenizers.bert, CLS_SEP, text=BERT, vision_key="image_config",
            settings={
                **PROJECTION, "init_codebook": False, "hidden_size": 28,
                "multimodal_config": {**LAYERS, "hidden_size": 28, "num_attention_heads": 2},
            },
            tokenize=TO_ALL_POSITIONS,
        ),
    )
}  # fmt: skip

# Classes that are no dual encoders of images and texts, or only a part or more of one, and why.
REFUSED = {
    "XCLIPModel": "its images are videos, and each changes the texts",
    "VideoPrismClipModel": "its images are videos",
    "ClapModel": "for audio",
    "ClvpModelForConditionalGeneration": "for speech",
    "Sam3Model": "its texts tell a detector what to find",
    "Sam3LiteTextModel": "its texts tell a detector what to find",
    "BlipModel": "deprecated: no published checkpoint has weights for its projections",
    "BlipForImageTextRetrieval": "has no scale of logits",
    "Blip2Model": "a Q-Former gives many features for an image",
    "Blip2ForImageTextRetrieval": "a Q-Former gives many features for an image",
    "FlavaForPreTraining": "FlavaModel is a part of it",
    "CLIPForImageClassification": "has no text tower",
    "SiglipForImageClassification": "has no text tower",
    "CLIPSegForImageSegmentation": "CLIPSegModel is a part of it",
    "OwlViTForObjectDetection": "OwlViTModel is a part of it",
    "Owlv2ForObjectDetection": "Owlv2Model is a part of it",
    "CLIPTextModel": "one tower",
    "CLIPTextModelWithProjection": "one tower",
    "SiglipVisionModel": "one tower",
}


def make_refused(model_class: str) -> PreTrainedModel:
    """A model of one of these classes, of any size: without memory for its weights."""
    model = getattr(transformers, model_class)
    with torch.device("meta"):
        return model(model.config_class())
