"""DenseCLIP (arXiv:2112.01518): classes that are read with learned vectors and each image, for every pixel of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..heads import SemanticSegmentationHead
from ..heads.dense import FPN, ContextDecoder, Pyramid, Segformer, SemanticFPNHead, UperNet, score_map
from ..prompts import NameTokens, PromptSequences
from ..prompts.sequences import check_lengths, context_sequences
from ..recipes import Recipe
from ..towers import (
    PlaceFeatures,
    check_layers,
    features_of_places,
    norm_and_projection,
    projection_dim,
    token_embedding,
    vision_layers,
    vision_width,
)
from .base import Method, Prompt
from .config import PromptConfig, check_count, check_number, check_switch

HEADS = ("semantic_fpn", "upernet", "segformer", "none")
OUT_INDICES = (3, 5, 7, 11)  # of the paper's tower of 12 layers
# What `train_vision` trains: the names are the same in all families that have features of places.
VISION = ("vision_model", "visual_projection")


@dataclass(eq=False)
class DenseCLIPConfig(PromptConfig):
    """Settings of DenseCLIP.

    Args:
        n_ctx: context vectors in front of every name; 0 for the bare names.
        max_class_tokens: the tokens that a name may have, with the two around it; a longer one is an error.
        ctx_init_std: of the vectors before training, drawn from a normal distribution that is cut at two of them.
        decoder_width: of the decoder that reads each image for the classes.
        decoder_layers: its layers.
        decoder_heads: heads of its attention.
        decoder_dropout: the share that it leaves out in training.
        gamma_init: what its result is multiplied by at first, before it is added to the texts.
        tau: what the score map is divided by in its own loss.
        aux_loss_weight: the weight of that loss.
        out_indices: the four layers of the vision tower, from 0, whose hidden states the head reads.
        score_level: the level of the pyramid that the score map is joined to: 2 has its size.
        head: what makes logits of the pyramid: "semantic_fpn", as in the paper, transformers' "upernet" or "segformer",
            or "none": the logits are the score map divided by `tau`, and any classes can be set.
        head_channels: of the head.
        head_dropout: the share that it leaves out in training.
        train_vision: train the vision tower and its projection, which are saved with the adapter, as
            `modules_to_save`: 86 million weights of a ViT-B. Frozen, the paper's results are clearly missed; a LoRA
            beside the adapter is in between.
        vision_lr_mult: factor of the vision tower's learning rate, and the pyramid's, see `param_groups`.
        drop_path: stochastic depth of the last layer of a vision tower that is trained.
        ignore_index: the label of pixels that do not count.
        reference_quirks: read images as the original's code: the class embedding is added twice, and positions are
            resized bilinearly.

    Others as `PromptConfig`; `loss_type` is "softmax".

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: DenseCLIP (arXiv:2112.01518).
    """

    n_ctx: int = field(default=8, metadata={"help": "Context vectors in front of every name; 0: none."})
    max_class_tokens: int = field(
        default=5, metadata={"help": "Tokens of the longest name that is taken, with the two around it."}
    )
    ctx_init_std: float = field(default=1.0, metadata={"help": "Standard deviation of the vectors before training."})
    decoder_width: int = field(default=256, metadata={"help": "Width of the decoder that reads images for classes."})
    decoder_layers: int = field(default=3, metadata={"help": "The decoder's layers."})
    decoder_heads: int = field(default=4, metadata={"help": "Heads of the decoder's attention."})
    decoder_dropout: float = field(default=0.1, metadata={"help": "The share that the decoder leaves out in training."})
    gamma_init: float = field(default=1e-4, metadata={"help": "Factor of what the decoder adds to texts, at first."})
    tau: float = field(default=0.07, metadata={"help": "What the score map is divided by in its own loss."})
    aux_loss_weight: float = field(default=0.4, metadata={"help": "Weight of the score map's own loss."})
    out_indices: Sequence[int] = field(
        default=OUT_INDICES, metadata={"help": "Four layers of the vision tower that the head reads, from 0."}
    )
    score_level: int = field(default=2, metadata={"help": "Level of the pyramid that the score map is joined to."})
    head: str = field(
        default="semantic_fpn", metadata={"help": "'semantic_fpn', 'upernet', 'segformer', or 'none': the score map."}
    )
    head_channels: int = field(default=256, metadata={"help": "Channels of the head."})
    head_dropout: float = field(default=0.1, metadata={"help": "The share that the head leaves out in training."})
    train_vision: bool = field(
        default=True, metadata={"help": "Train the vision tower and its projection, and save them with the adapter."}
    )
    vision_lr_mult: float = field(
        default=0.1, metadata={"help": "Factor of the learning rate of vision tower and pyramid."}
    )
    drop_path: float = field(default=0.1, metadata={"help": "Stochastic depth of the vision tower's last layer."})
    ignore_index: int = field(default=255, metadata={"help": "The label of pixels that do not count."})
    reference_quirks: bool = field(
        default=False, metadata={"help": "Add the class embedding twice and resize positions bilinearly."}
    )

    method = "dense_clip"
    task_name: ClassVar[str] = "SEMANTIC_SEG"
    shaping: ClassVar[tuple[str, ...]] = (
        *("decoder_heads", "out_indices", "score_level", "head", "tau", "reference_quirks"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type != "softmax":
            raise ValueError(f"`loss_type` of DenseCLIP is 'softmax', got {self.loss_type!r}.")
        if self.head not in HEADS:
            raise ValueError(f"`head` must be one of {HEADS}, got {self.head!r}.")
        self._check_numbers()
        self._check_levels()
        for name in ("train_vision", "reference_quirks"):
            check_switch(getattr(self, name), name)
        self._settle_vision()

    def _check_numbers(self) -> None:
        if isinstance(self.n_ctx, bool) or self.n_ctx != 0:
            self.n_ctx = check_count(self.n_ctx, "n_ctx")
        for name in ("max_class_tokens", "decoder_width", "decoder_layers", "decoder_heads", "head_channels"):
            setattr(self, name, check_count(getattr(self, name), name))
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"`decoder_width` must be a multiple of `decoder_heads`: got {self.decoder_width} and "
                f"{self.decoder_heads}."
            )
        for name in ("ctx_init_std", "tau", "vision_lr_mult"):
            setattr(self, name, check_number(getattr(self, name), name, above_zero=True))
        for name in ("gamma_init", "aux_loss_weight"):
            setattr(self, name, check_number(getattr(self, name), name))
        for name in ("decoder_dropout", "head_dropout", "drop_path"):
            setattr(self, name, check_number(getattr(self, name), name))
            if getattr(self, name) >= 1:
                raise ValueError(f"`{name}` must be a share below 1, got {getattr(self, name)!r}.")

    def _check_levels(self) -> None:
        given = self.out_indices
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(OUT_INDICES):
            raise ValueError(f"`out_indices` must be the numbers of {len(OUT_INDICES)} layers, got {given!r}.")
        # A list, as a saved config has it.
        self.out_indices = [0 if each == 0 else check_count(each, "out_indices") for each in given]
        if isinstance(self.score_level, bool) or self.score_level not in range(len(OUT_INDICES)):
            raise ValueError(f"`score_level` must be a level of the pyramid, 0 to 3, got {self.score_level!r}.")
        if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, int):
            raise ValueError(f"`ignore_index` must be a whole number, got {self.ignore_index!r}.")
        n_classes = len(self.class_names or ())
        if 0 <= self.ignore_index < n_classes:
            raise ValueError(
                f"`ignore_index` {self.ignore_index} is the label of the class "
                f"{(self.class_names or [])[self.ignore_index]!r}: give another number, such as -100."
            )

    def _settle_vision(self) -> None:
        """What is trained of the vision tower stands in `modules_to_save`, too."""
        named = [name for name in VISION if name in (self.modules_to_save or ())]
        if self.train_vision:
            others = [name for name in self.modules_to_save or () if name not in VISION]
            self.modules_to_save = [*VISION, *others]
        elif named:
            raise ValueError(
                f"`train_vision` is False, and `modules_to_save` names {', '.join(map(repr, named))}: leave these out, "
                "or set `train_vision=True`."
            )

    @property
    def belongs_to_its_classes(self) -> bool:
        """Whether a head was made for these classes: the score map alone has none of its own."""
        return self.head != "none"

    @property
    def has_vectors_per_class(self) -> bool:
        """See `PromptConfig.has_vectors_per_class`: the head is of the classes, and the vectors are of all."""
        return False


class DenseCLIPPrompt(Prompt):
    """Context vectors, a decoder that adds to the texts what an image says, and what makes logits of the places.

    Shapes: B images, K classes, M context vectors, D text width, W vision width, P projection width, h and w places.

    Attributes:
        ctx: `[M, D]`.
        gamma: `[P]`, the factor of what the decoder adds.
        decoder: see `heads.dense.ContextDecoder`.
        pyramid: four levels of the vision tower's maps; None without a head.
        neck: brings them to one width, for the Semantic FPN head; None otherwise.
        head: logits of the levels; None without a head.

    Raises:
        ValueError: if the config does not fit the model.

    Reference: DenseCLIP (arXiv:2112.01518), "post-model prompting".
    """

    task_head = SemanticSegmentationHead()
    settings: DenseCLIPConfig

    def __init__(self, config: DenseCLIPConfig, model: nn.Module):
        super().__init__(config, model)
        norm_and_projection(model)  # of a family that has them
        width, text_width = projection_dim(model), token_embedding(model).weight.shape[1]
        cut = 2 * config.ctx_init_std
        start = torch.empty(config.n_ctx, text_width)
        self.ctx = nn.Parameter(nn.init.trunc_normal_(start, std=config.ctx_init_std, a=-cut, b=cut))
        self.gamma = nn.Parameter(torch.full((width,), config.gamma_init))
        self.decoder = ContextDecoder(
            width, config.decoder_width, config.decoder_layers, config.decoder_heads, config.decoder_dropout
        )
        self.pyramid: Pyramid | None = None
        self.neck: FPN | None = None
        self.head: nn.Module | None = None
        if config.head != "none":
            config.out_indices = list(settle_layers(tuple(config.out_indices), len(vision_layers(model))))
            self._make_head(vision_width(model))

    def _make_head(self, width: int) -> None:
        config = self.settings
        if config.class_names is None:
            raise ValueError(
                f"A {config.head!r} head needs `class_names`: it has weights of its own for every class. Without, "
                'take `head="none"`.'
            )
        n_classes, channels, dropout = len(config.class_names), config.head_channels, config.head_dropout
        widths = [width + (n_classes if level == config.score_level else 0) for level in range(len(OUT_INDICES))]
        self.pyramid = Pyramid(width)
        if config.head == "semantic_fpn":
            self.neck = FPN(widths, channels)
            self.head = SemanticFPNHead(channels, channels, n_classes, dropout=dropout)
        else:
            kind = UperNet if config.head == "upernet" else Segformer
            self.head = kind(widths, channels, n_classes, dropout)

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: `BOS context name EOS`."""
        reader, config = self.reader, self.settings
        names = reader.names(class_names, template="{}", comes_first=not config.n_ctx)
        n_special = len(reader.tokenizer.framed([]))
        check_names(names, class_names, n_special, config.max_class_tokens)
        sequences = context_sequences(names, reader.tokenizer, reader.vocab_size, config.n_ctx)
        check_lengths(sequences, class_names, reader.max_length, config.n_ctx, n_special)
        return sequences

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`: `[M, D]`."""
        return self.ctx

    def check_classes(self, class_names: Sequence[str], own: Sequence[str] | None) -> None:
        """See `Prompt.check_classes`: a head has its own classes only, in their order."""
        if self.head is not None and list(class_names) != own:
            raise ValueError(
                f"The adapter has a {self.settings.head!r} head, with weights of its own for each of {own}, and none "
                f'for {list(class_names)}. Train an adapter with `head="none"` to change the classes.'
            )

    def read(self, model: nn.Module, pixel_values: Tensor, interpolate_pos_encoding: bool = True) -> PlaceFeatures:
        """Images place by place, and the hidden states that the head reads.

        Args:
            model: the dual encoder.
            pixel_values: `[B, 3, H, W]`, height and width multiples of the patches'.
            interpolate_pos_encoding: whether positions are resized where images are not of the tower's own size.

        Raises:
            ValueError: if the images do not fit the tower.
        """
        config = self.settings
        layers = () if self.head is None else tuple(config.out_indices)
        drop_path = config.drop_path if self.training else 0.0
        return features_of_places(
            model, pixel_values, layers, interpolate_pos_encoding, drop_path, config.reference_quirks
        )

    def segment(self, places: PlaceFeatures, text_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is in every place.

        Args:
            places: of B images.
            text_features: `[K, P]`, the classes' features, not normalised.

        Returns:
            The logits: `[B, K, 4h, 4w]`, or without a head the score map divided by `tau`; the score map
            `[B, K, h, w]`; and the texts that it was made with, `[B, K, P]`, not normalised.
        """
        texts = text_features.to(self.gamma.dtype).expand(places.image.shape[0], -1, -1)
        texts = texts + self.gamma * self.decoder(texts, places.tokens.to(self.gamma.dtype))
        scores = score_map(places.places, texts)
        if self.pyramid is None or self.head is None:
            return scores / self.settings.tau, scores, texts
        levels = self.pyramid([each.to(self.gamma.dtype) for each in places.maps])
        level = self.settings.score_level
        levels[level] = torch.cat([levels[level], resized(scores, levels[level])], dim=1)
        return self.head(levels if self.neck is None else self.neck(levels)), scores, texts

    def rate_and_decay(self, name: str | None) -> tuple[float, float]:
        """See `Prompt.rate_and_decay`: vision tower and pyramid are slower, and norms of the decoder do not decay."""
        if name is None or name.startswith("pyramid."):
            return self.settings.vision_lr_mult, 1.0
        return 1.0, 0.0 if "norm" in name else 1.0


def resized(scores: Tensor, like: Tensor) -> Tensor:
    """A score map of the size and the dtype of a level of the pyramid; level 2 has its size."""
    if scores.shape[-2:] != like.shape[-2:]:
        scores = nn.functional.interpolate(scores, size=like.shape[-2:], mode="bilinear", align_corners=False)
    return scores.to(like.dtype)


def settle_layers(given: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    """The layers whose hidden states are read.

    Args:
        given: the setting.
        n_layers: of the vision tower.

    Raises:
        ValueError: if the tower does not have them.
    """
    if given != OUT_INDICES or n_layers == OUT_INDICES[-1] + 1:
        check_layers(given, n_layers)
        return given
    fitting = tuple(math.ceil((index + 1) * n_layers / (OUT_INDICES[-1] + 1)) - 1 for index in OUT_INDICES)
    settled = fitting if n_layers <= OUT_INDICES[-1] else given
    warnings.warn(
        f"This vision tower has {n_layers} layers, and `out_indices` {OUT_INDICES} are for one of 12: "
        f"{settled} are read; as far up as in the paper are {fitting}.",
        stacklevel=2,
    )
    return settled


def check_names(names: Sequence[NameTokens], class_names: Sequence[str], n_special: int, limit: int) -> None:
    """Check that no name has more tokens than `max_class_tokens` allows.

    Raises:
        ValueError: if one has; it names the longest one.
    """
    longest = max(range(len(names)), key=lambda index: len(names[index].ids))
    length = len(names[longest].ids) + n_special
    if length > limit:
        raise ValueError(
            f"The name {class_names[longest]!r} needs {length} tokens ({n_special} of them around it), and "
            f"`max_class_tokens` is {limit}: set it to {length} or more, or shorten the name."
        )


def recipe(num_shots: int, data: str | None, protocol: str) -> Recipe:
    """ADE20K's, 80,000 steps of 32 images: 127 epochs of AdamW, see `DenseCLIPPrompt.rate_and_decay` for its groups."""
    return Recipe(
        127,
        batch_size=32,
        learning_rate=1e-4,
        optimizer="adamw",
        weight_decay=1e-4,
        schedule="poly",
        warm_up=1500 / 80_000,
        last_learning_rate=1e-6,
    )


DENSE_CLIP = Method(
    key="dense_clip",
    title="DenseCLIP",
    config=DenseCLIPConfig,
    prompt=DenseCLIPPrompt,
    reference="2112.01518",
    recipe_of=recipe,
    summary="in front of the name, a decoder that reads each image for the classes, and a head",
    other_classes='A head has its own classes only; with `head="none"` others can be any names: '
    "`model.set_classes([...])`.",
    settings=("head", "n_ctx", "train_vision"),
    colour="#5b3a8c",
    protocols=("segmentation",),
)
