"""The forward of a CLIP model that holds learned prompts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils.generic import can_return_tuple, maybe_autocast

from ..prompts import (
    FAMILIES,
    ClassPrompts,
    PromptTensors,
    TextCache,
    TextTowerFamily,
    encode_prompts,
    state_of_text_side,
)
from .adapter_files import AdapterFilesMixin
from .mixed_batch import classify_mixed
from .outputs import PromptClassifierOutput


class PromptClassifierMixin(AdapterFilesMixin):
    """What a dual encoder becomes while it holds prompt adapters: an image classifier over named classes.

    Mixed into the model's own class by `become_classifier`. With no adapter left it is the base model again.

    Shapes: B images, C classes, N given texts, P projection width.
    """

    # The Trainer passes `num_items_in_batch`, and the loss is divided by it.
    accepts_loss_kwargs = True
    # What the latest call gave the images as, set from `become_classifier` on; the Trainer hands it to the metrics.
    _images_given_as: str

    @property
    def main_input_name(self) -> str:
        """The argument that holds the images: the Trainer counts it, and hands it to metrics that ask for inputs."""
        return self._images_given_as if self.prompt_layer.coop_ctx else super().main_input_name

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> PromptClassifierOutput | CLIPOutput:
        """Classify images into the active adapter's classes.

        With `input_ids` this is CLIP's own call: the learned context is put into the given texts, and a `CLIPOutput`
        compares every image with every text. While the adapter is disabled, the classes are those of zero-shot CLIP
        with `zero_shot_template`, and CLIP's own call is CLIP's.

        Args:
            pixel_values: `[B, 3, H, W]`, as CLIP's image processor gives them.
            labels: `[B]`, integers from 0 to C-1.
            image_embeds: `[B, P]`, instead of `pixel_values`: features computed before, normalised or not; or what
                `get_image_features` returned.
            input_ids: `[N, L]`, texts as CLIP's tokenizer gives them.
            attention_mask: `[N, L]`, accepted with `input_ids`; a text ends at its EOS in any case.
            position_ids: only for CLIP's own call without an adapter.
            return_loss: with `input_ids`, also CLIP's contrastive loss.
            interpolate_pos_encoding: for images of another size than the vision tower's.
            num_items_in_batch: what the summed loss is divided by; None: B.
            adapter_names: B names of prompts, with the same number of classes: each image is classified by its own,
                and `text_embeds` are `[B, C, P]`. "__base__" is zero-shot CLIP. Only in evaluation, as in PEFT.
            **kwargs: for the vision tower, or CLIP's own call.

        Raises:
            ValueError: if there is not exactly one of `pixel_values` and `image_embeds`, a label is out of range, the
                adapter has no classes, or `adapter_names` do not fit.
        """
        layer = self.prompt_layer
        if adapter_names is not None and input_ids is not None:
            raise ValueError("`adapter_names` choose classes, and `input_ids` name other ones: give one of them.")
        image_embeds = getattr(image_embeds, "pooler_output", image_embeds)  # what `get_image_features` returns
        as_clip = input_ids is not None and layer.disable_adapters and image_embeds is None
        is_clip = layer.current_adapter is None and adapter_names is None
        if is_clip and input_ids is None and layer.coop_ctx:
            raise ValueError(
                f"No adapter is active: choose one of {list(layer.coop_ctx)} with `set_adapter`, or give `input_ids` "
                "for CLIP's own call."
            )
        if is_clip or as_clip:
            return super().forward(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                return_loss=return_loss,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
        self._check_saved_modules()
        given_as = "pixel_values" if image_embeds is None else "image_embeds"
        if input_ids is not None:
            image_embeds = self._embed_images(pixel_values, image_embeds, interpolate_pos_encoding, **kwargs)
            return self._compare_with_texts(image_embeds, input_ids, attention_mask, labels, return_loss)
        given = {"interpolate_pos_encoding": interpolate_pos_encoding, **kwargs}
        if adapter_names is None:
            image_embeds, text_embeds, logits = self._classify(pixel_values, image_embeds, **given)
        else:
            image_embeds, text_embeds, logits = classify_mixed(
                self, layer, adapter_names, (pixel_values, image_embeds), lambda *part: self._classify(*part, **given)
            )
        loss = None if labels is None else classification_loss(logits, labels, num_items_in_batch)
        if given_as != self._images_given_as:  # only of a call that went well
            self._images_given_as = given_as
        return PromptClassifierOutput(loss=loss, logits=logits, image_embeds=image_embeds, text_embeds=text_embeds)

    def get_text_features(
        self,
        image_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Text features of the active adapter's classes, or of `input_ids` with the learned context put in.

        In evaluation the features of an unconditional prompt are computed once, and again when something that they
        depend on has changed: the context, the classes, dtype, device, autocast, a weight on the text side, or the
        state of an adapter there (a LoRA's, for example). A weight that is changed in place through `.data` leaves no
        trace: call `clear_prompt_cache` then. They are computed in every call under `torch.compile`, and where the
        text side's state cannot be known: with hooks, layers or weights that are neither torch's, transformers' nor
        PEFT's.

        Args:
            image_embeds: `[B, P]`, L2-normalised; needed if the context depends on the image.
            input_ids: `[N, L]`, texts to use instead of the classes.
            attention_mask: `[N, L]`, accepted with `input_ids`.
            **kwargs: for CLIP's own call without an adapter.

        Returns:
            As `CLIPModel.get_text_features`, an output whose `pooler_output` are the projected, not normalised
            features: `[C, P]`, or `[B, C, P]` if the context depends on the image.
        """
        layer = self.prompt_layer
        if layer.current_adapter is None or (input_ids is not None and layer.disable_adapters):
            return super().get_text_features(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if input_ids is not None:
            prompts = layer.coop_builders[layer.current_adapter].splice(input_ids)
            return BaseModelOutputWithPooling(pooler_output=self._encode_learned(prompts, image_embeds))
        prompts = self._class_prompts()
        if layer.disable_adapters:
            features = self._kept(prompts.zero_shot_features, None, lambda: self._encode_templates(prompts.zero_shot))
        elif layer.is_conditional:
            features = self._encode_learned(prompts.learned, image_embeds)
        else:
            vectors = layer.context()
            features = self._kept(
                prompts.learned_features, vectors, lambda: self._encode_learned(prompts.learned, image_embeds)
            )
        return BaseModelOutputWithPooling(pooler_output=features)

    def train(self, mode: bool = True) -> PromptClassifierMixin:
        """Set training mode; a frozen vision tower stays in evaluation mode, where it recomputes and drops nothing."""
        super().train(mode)
        if self._vision_is_frozen:
            getattr(self, self._prompt_family.vision_model).eval()
        return self

    @property
    def class_names(self) -> list[str] | None:
        """The active adapter's class names; None where it has none."""
        prompts = self.prompt_layer.coop_prompts.get(self.prompt_layer.current_adapter)
        return None if prompts is None else list(prompts.class_names)

    def set_classes(self, class_names: Sequence[str]) -> None:
        """Change the classes of the active adapter; a unified context needs no retraining.

        Args:
            class_names: the new names; saved with the adapter.

        Raises:
            ValueError: if there is no adapter, no name, a prompt would be too long, or the context is class-specific.
        """
        layer = self.prompt_layer
        if layer.current_adapter is None:
            raise ValueError("There is no active adapter whose classes could be set: add one first.")
        self.peft_config[layer.current_adapter].class_names = layer.set_classes(class_names)

    def set_prompt_memory(self, gigabytes: float | None) -> None:
        """Limit what encoding the prompts keeps for the backward pass; results do not change.

        What exceeds the limit is computed again in the backward pass, in parts that stay below it.

        Args:
            gigabytes: the limit in GiB, above the model; None: 2, or a quarter of a GPU's memory.

        Raises:
            ValueError: if it is not above 0.
        """
        if gigabytes is not None and not (isinstance(gigabytes, int | float) and 0 < gigabytes < math.inf):
            raise ValueError(f"The prompts' memory must be a number of GiB above 0, got {gigabytes!r}.")
        self.prompt_layer.memory = None if gigabytes is None else int(gigabytes * 2**30)

    def clear_prompt_cache(self) -> None:
        """Forget the text features of all adapters, so that the next call computes them again.

        Needed only after a weight of the text side was changed in place through `.data`: all other changes are noticed.
        """
        self.prompt_layer.clear_cache()

    @property
    def prompt_layer(self):
        """The layer that holds the adapters' learnable parts."""
        return self.get_submodule(self._prompt_family.embeddings_path)

    @property
    def _prompt_family(self) -> TextTowerFamily:
        return FAMILIES[self.config.model_type]

    @property
    def _vision_is_frozen(self) -> bool:
        family = self._prompt_family
        parts = (getattr(self, name) for name in (family.vision_model, family.visual_projection))
        return not any(weight.requires_grad for part in parts for weight in part.parameters())

    def _class_prompts(self) -> ClassPrompts:
        layer = self.prompt_layer
        if layer.current_adapter not in layer.coop_prompts:
            raise ValueError(
                f"Adapter {layer.current_adapter!r} has no classes: give `class_names` in its config, or call "
                "`model.set_classes([...])`."
            )
        return layer.coop_prompts[layer.current_adapter]

    def _check_saved_modules(self) -> None:
        """Adapters that PEFT's own functions put in switch off the modules that others have: not without a word."""
        name = self.prompt_layer.current_adapter
        if name is None or not self.prompt_layer.coop_configs[name].modules_to_save:
            return
        for path, module in self.named_modules():
            if isinstance(module, AuxiliaryTrainingWrapper) and name in module._adapters - set(module.active_adapters):
                raise ValueError(
                    f"Adapter {name!r} is active, and what it has trained of {path!r} is not, since another adapter "
                    f"was put in: call `set_adapter({name!r})`. `model.add_adapter` puts one in without that."
                )

    def _classify(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image features, text features and logits of some images under the adapter in use."""
        image_embeds = self._embed_images(pixel_values, image_embeds, **kwargs)
        text_embeds = normalize(self.get_text_features(image_embeds).pooler_output)
        return image_embeds, text_embeds, cosine_logits(image_embeds, text_embeds, self.logit_scale)

    def _embed_images(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, interpolate_pos_encoding: bool, **kwargs: Any
    ) -> Tensor:
        if (pixel_values is None) == (image_embeds is None):
            given = "neither" if pixel_values is None else "both"
            raise ValueError(f"Give either `pixel_values` or `image_embeds` (features computed before), got {given}.")
        if image_embeds is not None:
            if self.training and torch.is_grad_enabled() and not self._vision_is_frozen:
                warnings.warn(
                    "The vision tower is trained, and gets no gradient from `image_embeds`, which were computed "
                    "before: give `pixel_values`, or freeze it.",
                    stacklevel=2,
                )
            width = self.config.projection_dim
            if not isinstance(image_embeds, Tensor):
                raise TypeError(
                    f"`image_embeds` must be a tensor (batch, {width}), or what `get_image_features` returns; got "
                    f"{type(image_embeds).__name__}."
                )
            if image_embeds.ndim != 2 or image_embeds.shape[1] != width:
                raise ValueError(f"`image_embeds` must be (batch, {width}), got {tuple(image_embeds.shape)}.")
            return normalize(image_embeds.to(self.logit_scale.device, computing_dtype(self.logit_scale)))
        pixel_values = cast(Tensor, pixel_values)
        trains = pixel_values.requires_grad or not self._vision_is_frozen
        # A frozen tower needs no graph, also where gradient checkpointing makes its inputs require gradients.
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            outputs = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
            )
        return normalize(outputs.pooler_output)

    def _encode_learned(self, prompts: PromptTensors, image_embeds: Tensor | None) -> Tensor:
        layer = self.prompt_layer
        return encode_prompts(self, self._prompt_family, prompts, layer.context(image_embeds), layer.memory)

    def _encode_templates(self, templates: Sequence[PromptTensors]) -> Tensor:
        features = [encode_prompts(self, self._prompt_family, prompts) for prompts in templates]
        return features[0] if len(features) == 1 else torch.stack([normalize(each) for each in features]).mean(0)

    def _kept(self, cache: TextCache[Tensor], vectors: Tensor | None, compute: Callable[[], Tensor]) -> Tensor:
        """Features from the cache, where they may be reused: in evaluation, and if no gradient must reach them."""
        needs_grad = vectors is not None and vectors.requires_grad and torch.is_grad_enabled()
        state = None if self.training or needs_grad else state_of_text_side(self, self._prompt_family)
        features = cache.get(state, compute, vectors)
        return features if state is None else features.clone()  # the caller may normalise it in place

    def _compare_with_texts(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        return_loss: bool | None,
    ) -> CLIPOutput:
        if labels is not None:
            raise ValueError(
                "`labels` count the adapter's own classes and `input_ids` name other ones: give one of them."
            )
        text_embeds = normalize(self.get_text_features(image_embeds, input_ids, attention_mask).pooler_output)
        logits_per_image = cosine_logits(image_embeds, text_embeds, self.logit_scale)
        loss = None
        if return_loss:
            pairs = torch.arange(len(logits_per_image), device=logits_per_image.device)
            loss = (F.cross_entropy(logits_per_image, pairs) + F.cross_entropy(logits_per_image.t(), pairs)) / 2
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.t(),
            text_embeds=text_embeds,
            image_embeds=image_embeds,
        )


def computing_dtype(tensor: Tensor) -> torch.dtype:
    """What similarities and logits of a model with such a tensor are computed in: float64 for float64, else float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def normalize(features: Tensor) -> Tensor:
    """L2-normalise the last axis, in float32 or, where the features are float64, in float64."""
    return F.normalize(features.to(computing_dtype(features)), dim=-1)


def cosine_logits(image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Logits `[B, C]` of images `[B, P]` against `[C, P]`, or against texts of their own `[B, C, P]`.

    In float32 or float64, also under autocast: the scale is about 100, which would raise bf16's rounding to tenths of a
    logit.

    Args:
        image_embeds: L2-normalised.
        text_embeds: L2-normalised.
        logit_scale: in log space.
    """
    with maybe_autocast(image_embeds.device.type, enabled=False):
        text_embeds = text_embeds.to(image_embeds)
        if text_embeds.ndim == 3:
            cosines = torch.einsum("bp,bcp->bc", image_embeds, text_embeds)
        else:
            cosines = image_embeds @ text_embeds.t()
        return logit_scale.to(cosines).exp() * cosines


def classification_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of `[B, C]` logits, averaged over the batch or divided by `num_items`.

    Raises:
        ValueError: if `labels` are not B integers from 0 to C-1.
    """
    n_cls = logits.shape[-1]
    try:
        labels = torch.as_tensor(labels)  # lists and arrays, too
    except (TypeError, ValueError) as error:
        raise TypeError(f"`labels` must be {len(logits)} integers, one per image, got {labels!r}.") from error
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"`labels` must be {len(logits)} integers, one per image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    labels = labels.to(logits.device).long()
    # One look at the values, since each makes the processor wait for a GPU.
    if not torch.compiler.is_compiling() and ((labels < 0) | (labels >= n_cls)).any():
        wrong = sorted({label for label in labels.tolist() if not 0 <= label < n_cls})
        raise ValueError(f"`labels` must lie between 0 and {n_cls - 1} ({n_cls} classes), got {wrong}.")
    if num_items is None:
        return F.cross_entropy(logits, labels)
    total = F.cross_entropy(logits, labels, reduction="sum")
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)
