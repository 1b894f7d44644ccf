"""Video prompting: vectors before and behind an action's name, and layers that let frames see each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..heads import VideoClassificationHead, class_labels
from ..prompts import PromptSequences
from ..prompts.sequences import check_lengths
from ..recipes import VIDEO_PROTOCOLS, Recipe
from ..towers import projection_dim, read_frames, temporal_layers, text_limit, token_embedding
from .base import Method, Prompt, VectorName
from .config import PromptConfig, check_count, check_number, check_switch

SUFFIX_INDEXINGS = ("relative", "absolute")


BEFORE_NAME, BEHIND_NAME = "before the name", "behind the name"


@dataclass(eq=False)
class VideoPromptConfig(PromptConfig):
    """Settings of video prompting.

    Args:
        n_prefix: vectors before the name.
        n_suffix: vectors behind it.
        suffix_indexing: "relative", the same vectors behind every name, or "absolute", as the original has it: each
            place in the prompt has a vector, so that names of another length have others behind them, and a name
            longer than all that were trained has some that were not.
        num_frames: T, frames of a video; any number where there is no temporal layer.
        temporal_layers: transformer layers over the frames; 0 for their mean.
        temporal_heads: of each one's attention.
        temporal_dropout: the share of attention weights that training leaves out there.
        temperature: what the cosine is divided by; the model's own scale is not used.
        normalize: compare by the cosine; False compares by the product of the features, without a temperature.
        init_std: standard deviation of the vectors, and of the frames' positions, before training.
        num_contrast: how many classes a training step compares with: those of its videos, and others at random; None
            for all. The step's output has them as `class_names`.

    Others as `PromptConfig`.

    Raises:
        ValueError, TypeError: if a value is not one of those accepted.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """

    zero_shot_template: str | list[str] = field(
        default="a video of a person doing {}.",
        metadata={"help": "Prompt with {} for the name, used while the adapter is disabled; a list is averaged."},
    )
    n_prefix: int = field(default=16, metadata={"help": "Vectors before the name."})
    n_suffix: int = field(default=16, metadata={"help": "Vectors behind the name."})
    suffix_indexing: str = field(
        default="relative",
        metadata={"help": "'relative': the same vectors behind every name; 'absolute': a vector for each place."},
    )
    num_frames: int = field(default=16, metadata={"help": "Frames of a video."})
    temporal_layers: int = field(
        default=1, metadata={"help": "Transformer layers over the frames; 0: the mean of the frames."}
    )
    temporal_heads: int = field(default=8, metadata={"help": "Attention heads of a temporal layer."})
    temporal_dropout: float = field(default=0.0, metadata={"help": "Attention weights that training leaves out there."})
    temperature: float = field(default=0.07, metadata={"help": "What the cosine is divided by."})
    normalize: bool = field(default=True, metadata={"help": "Compare by the cosine, and not by the plain product."})
    init_std: float = field(default=0.01, metadata={"help": "Standard deviation of the vectors before training."})
    num_contrast: int | None = field(
        default=None, metadata={"help": "Classes that a training step compares with; None: all."}
    )

    method = "video_prompt"
    task_name: ClassVar[str] = "VIDEO_CLS"
    shaping: ClassVar[tuple[str, ...]] = (
        *("n_prefix", "n_suffix", "suffix_indexing", "temporal_layers", "temporal_heads", "temperature", "normalize"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_prefix", "n_suffix", "temporal_layers"):
            value = getattr(self, name)
            setattr(self, name, 0 if isinstance(value, int) and value == 0 else check_count(value, name))
        for name in ("num_frames", "temporal_heads"):
            setattr(self, name, check_count(getattr(self, name), name))
        if self.num_contrast is not None:
            self.num_contrast = check_count(self.num_contrast, "num_contrast")
        if self.suffix_indexing not in SUFFIX_INDEXINGS:
            raise ValueError(f"`suffix_indexing` must be one of {SUFFIX_INDEXINGS}, got {self.suffix_indexing!r}.")
        self.temperature = check_number(self.temperature, "temperature", above_zero=True)
        self.init_std = check_number(self.init_std, "init_std")
        self.temporal_dropout = check_number(self.temporal_dropout, "temporal_dropout")
        if self.temporal_dropout >= 1:
            raise ValueError(f"`temporal_dropout` must be a share below 1, got {self.temporal_dropout!r}.")
        check_switch(self.normalize, "normalize")
        if not (self.temporal_layers or self.n_prefix or self.n_suffix):
            raise ValueError(
                "There is nothing to learn: `n_prefix`, `n_suffix` and `temporal_layers` are 0. Give one of them."
            )

    @property
    def n_vectors(self) -> int | None:
        """See `PromptConfig.n_vectors`."""
        return self.n_prefix + self.n_suffix


class VideoPrompt(Prompt):
    """Vectors around the names, and layers over the frames.

    Shapes: B videos, T frames, C classes, V vectors, D text width, P projection width.

    Attributes:
        ctx: `[V, D]`: those before the name, then those behind it; with absolute indexing one for each place in a
            prompt, of which those of the special tokens and the names are never read.
        temporal_positions: `[T, P]`, added to the frames' features; only with temporal layers.
        temporal_layers: the layers, see `towers.temporal_layers`.

    Raises:
        ValueError: if the config does not fit the model.

    Reference: Prompting Visual-Language Models for Efficient Video Understanding (arXiv:2112.04478).
    """

    task_head = VideoClassificationHead()
    call_arguments = ("class_ids",)
    settings: VideoPromptConfig

    def __init__(self, config: VideoPromptConfig, model: nn.Module):
        super().__init__(config, model)
        width, text_width = projection_dim(model), token_embedding(model).weight.shape[1]
        of_places = config.suffix_indexing == "absolute"
        n_vectors = text_limit(model) if of_places else config.n_prefix + config.n_suffix
        self.ctx = nn.Parameter(torch.empty(n_vectors, text_width).normal_(std=config.init_std))
        if config.temporal_layers:
            self.temporal_positions = nn.Parameter(torch.empty(config.num_frames, width).normal_(std=config.init_std))
        layers = temporal_layers(width, config.temporal_layers, config.temporal_heads, config.temporal_dropout)
        self.temporal_layers = layers

    def sequences(self, class_names: Sequence[str]) -> PromptSequences:
        """See `Prompt.sequences`: `BOS v1 … v16 name v17 … v32 EOS`."""
        reader, config = self.reader, self.settings
        names = reader.names(class_names, template="{}", comes_first=not config.n_prefix)
        prompts = [reader.tokenizer.framed(self._inner(name.ids)) for name in names]
        sequences = PromptSequences(tuple(prompts), reader.vocab_size, reader.tokenizer.pad_token_id)
        n_special, n_ctx = len(reader.tokenizer.framed([])), config.n_prefix + config.n_suffix
        check_lengths(sequences, class_names, reader.max_length, n_ctx, n_special, "`n_prefix` + `n_suffix`")
        return sequences

    def _inner(self, name: Sequence[int]) -> list[int]:
        """A name's ids with those of the vectors around them."""
        n_prefix, n_suffix = self.settings.n_prefix, self.settings.n_suffix
        first, behind = 0, n_prefix
        if self.settings.suffix_indexing == "absolute":
            first = len(self.reader.tokenizer.before)
            behind = first + n_prefix + len(name)
        start = self.reader.vocab_size
        prefix = [start + first + index for index in range(n_prefix)]
        return [*prefix, *name, *(start + behind + index for index in range(n_suffix))]

    def vectors(self, image_embeds: Tensor | None = None) -> Tensor:
        """See `Prompt.vectors`."""
        return self.ctx

    def named_vectors(self, class_names: Sequence[str]) -> tuple[list[VectorName], Tensor]:
        """See `Prompt.named_vectors`: those that these classes' prompts read.

        They are counted in front of the names, and behind them; with absolute indexing by their places in the prompt.
        """
        start = self.reader.vocab_size
        rows = sorted({each - start for ids in self.sequences(class_names).ids for each in ids if each >= start})
        is_absolute, n_prefix = self.settings.suffix_indexing == "absolute", self.settings.n_prefix
        behind = n_prefix + (len(self.reader.tokenizer.before) if is_absolute else 0)
        names = [
            VectorName(row, place=BEFORE_NAME)
            if row < behind
            else VectorName(row if is_absolute else row - n_prefix, place=BEHIND_NAME)
            for row in rows
        ]
        return names, self.ctx[torch.tensor(rows, device=self.ctx.device, dtype=torch.long)]

    def video_features(self, frames: Tensor) -> Tensor:
        """One feature `[B, P]` of each video, of those of its frames `[B, T, P]`; neither is normalised.

        Raises:
            ValueError: if there are temporal layers, and another number of frames than `num_frames`.
        """
        if not self.settings.temporal_layers:
            return frames.mean(1)
        positions = self.temporal_positions
        if frames.shape[1] != len(positions):
            raise ValueError(
                f"A video must have `num_frames` = {len(positions)} frames, which have a position each; got "
                f"{frames.shape[1]}. Sample as many, or make a prompt with `temporal_layers=0`."
            )
        return read_frames(self.temporal_layers, frames.to(positions.dtype) + positions).mean(1)

    def scale(self, like: Tensor) -> Tensor | None:
        """The factor of the cosine, in the dtype of a tensor; None for products of features as they are."""
        return like.new_tensor(1 / self.settings.temperature) if self.settings.normalize else None

    def classes_of_call(self, class_ids: Any = None) -> list[str]:  # type: ignore[override]
        """See `Prompt.classes_of_call`.

        Args:
            class_ids: `[S]`, numbers of classes, each once; a tensor, an array or a list.

        Raises:
            TypeError, ValueError: if they are none.
        """
        names = self.settings.class_names or []
        return [names[each] for each in self._checked_ids(class_ids)]

    def _checked_ids(self, class_ids: Any) -> list[int]:
        n_cls = len(self.settings.class_names or ())
        ids = torch.as_tensor(class_ids)
        if ids.ndim != 1 or not len(ids) or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"`class_ids` must be a list of numbers of classes, got {ids.dtype} of shape {tuple(ids.shape)}."
            )
        numbers = ids.tolist()
        wrong = sorted({each for each in numbers if not 0 <= each < n_cls or numbers.count(each) > 1})
        if wrong:
            raise ValueError(f"`class_ids` must lie between 0 and {n_cls - 1}, each once; got {wrong}.")
        return numbers

    def labels_of_call(self, labels: Any, class_ids: Any = None) -> Tensor:  # type: ignore[override]
        """See `Prompt.labels_of_call`: `labels` count all classes, and columns only those of the call."""
        labels, numbers = self._checked_labels(labels), self._checked_ids(class_ids)
        columns = {each: column for column, each in enumerate(numbers)}
        missing = sorted(set(labels.tolist()) - set(numbers))
        if missing:
            raise ValueError(f"`labels` must be among `class_ids`, {numbers}; got {missing}.")
        return torch.tensor([columns[each] for each in labels.tolist()], device=labels.device)

    def _checked_labels(self, labels: Any) -> Tensor:
        return class_labels(labels, len(self.settings.class_names or ()))

    def arguments_of_step(self, labels: Any) -> dict[str, Any]:
        """See `Prompt.arguments_of_step`: the classes of the step's videos and others at random, where there are more.

        The others are drawn from torch's generator of the processor.
        """
        n_cls, wanted = len(self.settings.class_names or ()), self.settings.num_contrast
        if wanted is None or wanted >= n_cls:
            return {}
        if labels is None:
            warnings.warn(
                f"The model is trained without `labels`, so that `num_contrast` {wanted} has no effect: videos are "
                f"compared with all {n_cls} classes. The Trainer keeps labels to itself with "
                "`label_smoothing_factor` or `compute_loss_func`.",
                stacklevel=2,
            )
            return {}
        return {"class_ids": self._draw_classes(labels, n_cls, wanted)}

    @torch.compiler.disable  # which classes a step has is known when it runs
    def _draw_classes(self, labels: Any, n_cls: int, wanted: int) -> list[int]:
        own = sorted(set(self._checked_labels(labels).tolist()))
        others = [each for each in torch.randperm(n_cls).tolist() if each not in own]
        return sorted([*own, *others[: max(0, wanted - len(own))]])


VIDEO_PROMPT = Method(
    key="video_prompt",
    title="Video prompting",
    config=VideoPromptConfig,
    prompt=VideoPrompt,
    reference="2112.04478",
    recipe_of=lambda num_shots, data, protocol: Recipe(
        20, batch_size=64, learning_rate=1e-4, optimizer="adamw", weight_decay=0.01, schedule="constant"
    ),
    summary="around the name of an action",
    other_classes="Others can be any names of actions: `model.set_classes([...])`. With absolute suffixes, "
    "names longer than all that it was trained on are read with vectors that were never trained.",
    settings=("suffix_indexing", "temporal_layers"),
    colour="#a65628",
    protocols=VIDEO_PROTOCOLS,
)
