"""An image classifier of fixed classes: the image side of a dual encoder, such as CLIP, and a matrix of class features.

`save_pretrained` copies this file beside the weights, so that `trust_remote_code=True` loads them where nothing but
torch and transformers is installed. It therefore imports nothing else, and no other file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import can_return_tuple


class ClassMatrixConfig(PretrainedConfig):
    """Settings of a `ClassMatrixForImageClassification`; `id2label` are the classes.

    Args:
        encoder_config: the dual encoder's, or its settings with `model_type`.
        image_parts: names of the modules of it that an image passes through; the others are left out.
        projection_dim: P, the width of projected features.
        has_bias: whether something is added to the logits, as in SigLIP.
        n_others: rows of the matrix, the last ones, that stand for none of the classes: together they are the last of
            `id2label`, "other".
        min_probability: where a classifier is to answer "other", its best class being less likely; for who reads the
            logits, forward knows nothing of it.
        vision_prompts: how many prompts stand in the vision tower, and of how many vectors each; None for none.
        vision_width: W, the width of these vectors.
        vision_embeddings: dotted path of what gives the tower's tokens.
        vision_layers: dotted path of the list of its layers.
        **kwargs: as of every config.
    """

    model_type = "peft_coop_class_matrix"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        image_parts: Sequence[str] = ("vision_model", "visual_projection"),
        projection_dim: int = 512,
        has_bias: bool = False,
        n_others: int = 0,
        min_probability: float | None = None,
        vision_prompts: Sequence[int] | None = None,
        vision_width: int | None = None,
        vision_embeddings: str = "vision_model.embeddings",
        vision_layers: str = "vision_model.encoder.layers",
        **kwargs: Any,
    ):
        if isinstance(encoder_config, PretrainedConfig):
            encoder_config = encoder_config.to_dict()
        self.encoder_config = AutoConfig.for_model(**(encoder_config or {"model_type": "clip"}))
        self.image_parts = list(image_parts)
        self.projection_dim = projection_dim
        self.has_bias = has_bias
        self.n_others = n_others
        self.min_probability = min_probability
        self.vision_prompts = None if vision_prompts is None else list(vision_prompts)
        self.vision_width = vision_width
        self.vision_embeddings = vision_embeddings
        self.vision_layers = vision_layers
        super().__init__(**kwargs)


class ClassMatrix(nn.Module):
    """Classes as rows that image features are compared with.

    Shapes: B images, C classes, P projection width.

    Args:
        n_cls: C; with other names, whose rows make one logit, the last, one more.
        width: P.
        n_others: how many other names there are.
        has_bias: whether something is added to the logits.

    Attributes:
        class_embeds: `[C, P]`, L2-normalised; with other names their rows, too.
        cosine_scale: `[1]`, the factor of the cosines.
        cosine_bias: `[1]`, what is added to the logits; None for nothing.
    """

    def __init__(self, n_cls: int, width: int, n_others: int, has_bias: bool):
        super().__init__()
        # Rounded to bfloat16, the scale of about 100 would make hundredths of a logit of it.
        exact: dict[str, Any] = {"dtype": computing_dtype(torch.get_default_dtype())}
        self.n_cls, self.n_others = n_cls, n_others
        self.register_buffer("class_embeds", torch.zeros(n_cls + max(n_others - 1, 0), width, **exact))
        self.register_buffer("cosine_scale", torch.ones(1, **exact))
        self.register_buffer("cosine_bias", torch.zeros(1, **exact) if has_bias else None)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, C]` of image features `[B, P]`, in float32 (float64 where the features are)."""
        dtype = computing_dtype(features.dtype)
        with torch.autocast(features.device.type, enabled=False):
            image_embeds = nn.functional.normalize(features.to(dtype), dim=-1)
            logits = self.cosine_scale.to(dtype) * (image_embeds @ self.class_embeds.to(dtype).t())
            if self.cosine_bias is not None:
                logits = logits + self.cosine_bias.to(dtype)
            if self.n_others:
                of_classes, of_others = logits.split([self.n_cls - 1, self.n_others], dim=-1)
                logits = torch.cat([of_classes, of_others.logsumexp(-1, keepdim=True)], dim=-1)
        return logits


class VisionPrompts(nn.Module):
    """Vectors that stand behind an image's tokens, from the embeddings to the last layer.

    Shapes: T layers, n vectors, W width of the vision tower.

    Args:
        shape: T, n and W.

    Attributes:
        vectors: `[T, n, W]`, what stands there before each of the tower's first T layers.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(*shape, dtype=computing_dtype(torch.get_default_dtype())))

    def put_into(self, embeddings: nn.Module, layers: nn.ModuleList) -> None:
        """Let them stand in a tower.

        Args:
            embeddings: what gives the tower's tokens.
            layers: the tower's.
        """
        embeddings.register_forward_hook(self._append)
        for index in range(1, len(self.vectors)):
            layers[index].register_forward_pre_hook(partial(self._replace, index))
        layers[-1].register_forward_hook(self._take_away)

    def check(self) -> None:
        """Check that they are vectors of a tower.

        It is called where they are about to be used: `torch.compile` looks at what a forward reads, and not at hooks,
        and would run what it has made of another model, one without prompts.

        Raises:
            ValueError: if not.
        """
        if self.vectors.ndim != 3:
            raise ValueError(f"Vision prompts must be of shape [T, n, W], got {list(self.vectors.shape)}.")

    def _append(self, module: nn.Module, args: Any, states: Tensor) -> Tensor:
        return self._with(0, states)

    def _replace(self, index: int, module: nn.Module, args: tuple) -> tuple:
        return (self._with(index, args[0][:, : -self.vectors.shape[1]]), *args[1:])

    def _take_away(self, module: nn.Module, args: Any, states: Tensor) -> Tensor:
        return states[:, : -self.vectors.shape[1]]

    def _with(self, index: int, states: Tensor) -> Tensor:
        rows = self.vectors[index].to(states)
        return torch.cat([states, rows.expand(states.shape[0], -1, -1)], dim=1)


class ClassMatrixForImageClassification(PreTrainedModel):
    """An image classifier whose classes are rows of a matrix that image features are compared with.

    It has no tensor of its own, all are its modules': torchao could not load others where it has quantised.

    Args:
        config: its settings.

    Attributes:
        encoder: the dual encoder, of which only the image side is left.
        matrix: the classes.
        vision_prompts: what stands among an image's tokens; None for nothing.
    """

    config_class = ClassMatrixConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ClassMatrixConfig):
        super().__init__(config)
        self.encoder = image_side_of(AutoModel.from_config(config.encoder_config), config.image_parts)
        self.matrix = ClassMatrix(config.num_labels, config.projection_dim, config.n_others, config.has_bias)
        self.vision_prompts = None
        if config.vision_prompts is not None and config.vision_width is not None:
            self.vision_prompts = VisionPrompts([*config.vision_prompts, config.vision_width])
            embeddings, layers = (
                self.encoder.get_submodule(at) for at in (config.vision_embeddings, config.vision_layers)
            )
            self.vision_prompts.put_into(embeddings, layers)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify images.

        Shapes: B images, C classes.

        Args:
            pixel_values: `[B, 3, H, W]`, as the image processor gives them.
            labels: `[B]`, integers from 0 to C-1; `[B, C]` of 0 and 1 where `problem_type` says that there are several.
            interpolate_pos_encoding: for images of another size than the vision tower's.
            pixel_attention_mask: `[B, L]`, of a vision tower that takes images of any shape (SigLIP 2).
            spatial_shapes: `[B, 2]`, likewise.
            **kwargs: for the vision tower.

        Returns:
            `logits` `[B, C]`, in float32 (float64 where the model is), and with `labels` the `loss`.
        """
        of_images: dict[str, Any] = {
            "interpolate_pos_encoding": interpolate_pos_encoding,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
        }
        of_images = {name: value for name, value in of_images.items() if value is not None} | kwargs
        if self.vision_prompts is not None:
            self.vision_prompts.check()
        features = self.encoder.get_image_features(pixel_values=pixel_values, **of_images)
        features = getattr(features, "pooler_output", features)  # a tensor, before transformers 5
        logits = self.matrix(features)
        loss = None if labels is None else self._loss(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def get_input_embeddings(self) -> nn.Module:
        """The first layer that an image meets, which transformers' quantisers ask for."""
        return next(module for module in self.encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits))
        return nn.functional.cross_entropy(logits, labels)


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """What similarities are computed in: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def image_side_of(model: PreTrainedModel, image_parts: Sequence[str]) -> PreTrainedModel:
    """A dual encoder without what an image does not pass through: its text tower, and the scale of its logits."""
    for name, _ in list(model.named_children()):
        if name not in image_parts:
            setattr(model, name, None)
    for name, _ in list(model.named_parameters(recurse=False)):
        setattr(model, name, None)
    return model


# What makes `save_pretrained` copy this file, and name it in `config.json`.
ClassMatrixConfig.register_for_auto_class()
ClassMatrixForImageClassification.register_for_auto_class("AutoModelForImageClassification")
