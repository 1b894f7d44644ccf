"""The forward of a dual encoder that holds learned prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..heads import contrastive_loss
from ..towers import (
    Family,
    check_image_inputs,
    cosine_logits,
    find_family,
    is_vision_frozen,
    normalize,
    scale_and_bias,
    text_tower,
    vision_parts,
    vision_prompts,
)
from .adapter_files import AdapterFilesMixin
from .call_arguments import classes_of_call, is_base_models_call, take_class_arguments
from .class_features import deep_vectors, encode_classes, encode_in_parts
from .class_texts import ClassTexts
from .decisions import DecisionsMixin, checked_decision, chosen_decision
from .loss_terms import warn_of_evaluation_mode, warn_of_smoothing, with_terms
from .mixed_batch import classify_mixed
from .modules_to_save import check_used_together
from .parameter_groups import param_groups
from .prompt_embeddings import PromptEmbeddings
from .training_step import one_thread_at_a_time, training_step, zero_shot_embeds_of_given


class PromptClassifierMixin(DecisionsMixin, AdapterFilesMixin):
    """What a dual encoder becomes while it holds prompt adapters: a classifier for the active adapter's task.

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
        return self._images_given_as if self.prompt_layer.learned_prompts else super().main_input_name

    @can_return_tuple
    @one_thread_at_a_time
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """Classify images, or what else the active adapter's method classifies, into its classes.

        With `input_ids` this is the base model's own call: the learned context is put into the given texts, and a
        `CLIPOutput`, whatever the family, compares every image with every text. While the adapter is disabled, the
        classes are read with `zero_shot_template`, and the base model's own call is answered by it alone.

        Args:
            pixel_values: `[B, 3, H, W]`, as the model's image processor gives them; videos are `[B, T, 3, H, W]`.
            labels: `[B]`, integers from 0 to C-1; where an image has any number of classes `[B, C]`, 1 and 0; of pixels
                `[B, H, W]`.
            image_embeds: `[B, P]`, instead of `pixel_values`: features computed before, normalised or not; or what
                `get_image_features` returned. Of videos `[B, T, P]`, as `get_image_features` gives them for frames.
            input_ids: `[N, L]`, texts as the model's tokenizer gives them.
            attention_mask: `[N, L]`, accepted with `input_ids`; where a text ends is seen in its ids.
            position_ids: only for the base model's own call without an adapter.
            token_type_ids: likewise, of tokenizers that give them.
            return_loss: with `input_ids`, also the contrastive loss that the model was trained with.
            interpolate_pos_encoding: for images of another size than the vision tower's; None: as the model has it.
            pixel_attention_mask: `[B, L]`, of a vision tower that takes images of any shape (SigLIP 2).
            spatial_shapes: `[B, 2]`, likewise.
            num_items_in_batch: what the summed loss is divided by; None: B.
            adapter_names: B names of prompts, with the same number of classes: each image is classified by its own,
                and `text_embeds` are `[B, C, P]`. "__base__" is zero-shot. Only in evaluation, as in PEFT.
            **kwargs: for the vision tower, or the base model's own call; and what chooses the classes of this call,
                which `labels` then count: `class_names`, or what the adapter's method takes, such as `pair_ids` of CSP.

        Returns:
            The output of the method's task, a `PromptClassifierOutput` for images; a `CLIPOutput` with `input_ids`. Its
            `class_names` say what the columns are where they are not the adapter's own classes.

        Raises:
            ValueError: if there is not exactly one of `pixel_values` and `image_embeds`, a label is out of range, the
                adapter has no classes, or `adapter_names` do not fit.
        """
        of_images: dict[str, Any] = {
            "interpolate_pos_encoding": interpolate_pos_encoding,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
        }
        of_call = take_class_arguments(self.prompt_layer, kwargs, input_ids=input_ids, adapter_names=adapter_names)
        of_images = {name: value for name, value in of_images.items() if value is not None} | kwargs
        check_image_inputs(self, of_images)
        image_embeds = getattr(image_embeds, "pooler_output", image_embeds)  # what `get_image_features` returns
        if is_base_models_call(self.prompt_layer, input_ids, image_embeds, adapter_names):
            of_texts: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
            of_texts |= {"token_type_ids": token_type_ids, "return_loss": return_loss}
            of_texts = {name: value for name, value in of_texts.items() if value is not None}
            return super().forward(input_ids=input_ids, pixel_values=pixel_values, **of_texts, **of_images)
        name = self.prompt_layer.current_adapter
        if name is not None and self.prompt_layer.prompt.settings.modules_to_save:
            check_used_together(self, name)
        if input_ids is not None:
            image_embeds = self._embed_images(pixel_values, image_embeds, of_images)
            return self._compare_with_texts(image_embeds, input_ids, attention_mask, labels, return_loss)
        images = {"pixel_values": pixel_values, "image_embeds": image_embeds, **of_images}
        if adapter_names is None:
            texts, labels = classes_of_call(self, labels, of_call)
            outputs = self._classify(labels, num_items_in_batch, texts, **images)
            if texts is not self.prompt_layer.class_texts.get(self.prompt_layer.required_adapter):
                outputs.class_names = list(texts.class_names)
        else:
            outputs = classify_mixed(self, self.prompt_layer, adapter_names, images, self._classify)
            if labels is not None:
                prompt = self.prompt_layer.prompt
                prompt.task_head.add_loss(outputs, labels, num_items_in_batch, prompt.settings)
        given_as = "pixel_values" if image_embeds is None else "image_embeds"
        if given_as != self._images_given_as:  # only of a call that went well
            self._images_given_as = given_as
        return outputs

    @one_thread_at_a_time
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
            **kwargs: for the base model's own call without an adapter.

        Returns:
            As the base model's own method, an output whose `pooler_output` are the projected, not normalised
            features: `[C, P]`, or `[B, C, P]` if the context depends on the image.
        """
        layer = self.prompt_layer
        if layer.current_adapter is None or (input_ids is not None and layer.disable_adapters):
            return super().get_text_features(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if input_ids is not None:
            tower = text_tower(self)
            prompts = tower.prepare(layer.prompt.given_texts(input_ids))
            deep = deep_vectors(layer.prompt, lambda: zero_shot_embeds_of_given(self, input_ids))
            features = tower.encode(prompts, layer.prompt.vectors(image_embeds), layer.memory, deep)
        elif layer.disable_adapters:
            features = layer.texts.zero_shot_features(text_tower(self))
        else:
            features = encode_classes(self, layer.texts, layer.prompt, layer.prompt.vectors(image_embeds))
        return BaseModelOutputWithPooling(pooler_output=features)

    @one_thread_at_a_time
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Image features, with the prompts that the active adapter has learned for the vision tower, if any.

        Args:
            pixel_values: `[B, 3, H, W]`, as the model's image processor gives them.
            **kwargs: what else the base model's own method takes.

        Returns:
            As the base model's own method, an output whose `pooler_output` are the projected, not normalised features
            `[B, P]`.
        """
        with vision_prompts(self, self._vision_vectors()):
            return super().get_image_features(pixel_values=pixel_values, **kwargs)

    def _vision_vectors(self) -> Sequence[Tensor]:
        """The vision tower's prompts in use.

        Raises:
            ValueError: if the adapter's settings say otherwise.
        """
        layer = self.prompt_layer
        if layer.disable_adapters or layer.current_adapter is None:
            return ()
        vectors, settings = layer.prompt.vision_vectors(), layer.prompt.settings
        if settings.changes_vision != bool(vectors):
            raise ValueError(
                f"`changes_vision` of {type(settings).__name__} is {settings.changes_vision}, and "
                f"{type(layer.prompt).__name__} has {len(vectors)} prompts of the vision tower: they belong together."
            )
        return vectors

    def _embed_images(
        self, pixel_values: Tensor | None, image_embeds: Tensor | None, of_images: Mapping[str, Any]
    ) -> Any:
        """What the vision tower makes of the images, see `Head.embed_images`.

        Raises:
            ValueError: if features are given, and the adapter in use reads images with prompts of its own.
        """
        prompts = self._vision_vectors()
        if prompts and image_embeds is not None:
            raise ValueError(
                f"Adapter {self.prompt_layer.current_adapter!r} reads images with learned prompts in the vision tower, "
                "which `image_embeds` were computed without: give `pixel_values`."
            )
        return self.prompt_layer.prompt.task_head.embed_images(self, pixel_values, image_embeds, prompts, **of_images)

    def train(self, mode: bool = True) -> PromptClassifierMixin:
        """Set training mode; a frozen tower stays in evaluation mode, where it recomputes, drops and counts nothing.

        Frozen batch norms keep their statistics in any tower: nothing saves them with an adapter.
        """
        super().train(mode)
        self.keep_frozen_parts_still()
        return self

    def keep_frozen_parts_still(self) -> None:
        """Put what is frozen into evaluation mode, whatever mode the model is in, see `train`."""
        if self.text_is_frozen:
            for part in self._prompt_family.text_parts:
                self.get_submodule(part).eval()
            self.prompt_layer.learned_prompts.train(self.training)
        if is_vision_frozen(self):
            for module in vision_parts(self):
                module.eval()
        for module in self.modules():  # of adapters, too: one that was loaded to be used counts nothing either
            if isinstance(module, _BatchNorm) and not any(weight.requires_grad for weight in module.parameters()):
                module.eval()

    @property
    def class_names(self) -> list[str] | None:
        """The active adapter's class names; None where it has none."""
        texts = self.prompt_layer.class_texts.get(self.prompt_layer.current_adapter or "")
        return None if texts is None else list(texts.class_names)

    def set_classes(self, class_names: Sequence[Any]) -> None:
        """Change the classes of the active adapter; a unified context needs no retraining.

        Args:
            class_names: the new names; saved with the adapter. Of CSP also pairs of words, or of their numbers.

        Raises:
            ValueError: if there is no adapter, no name, a prompt would be too long, or the context is class-specific.
        """
        layer = self.prompt_layer
        texts = ClassTexts(class_names, layer.prompt, text_tower(self))
        before = self.class_names
        layer.prompt.check_classes(texts.class_names, before)
        if before is None:
            checked_decision(layer.prompt, texts.class_names, chosen_decision(layer.prompt.settings), text_tower(self))
        layer.use_classes(texts)
        self.peft_config[layer.required_adapter].class_names = list(layer.texts.class_names)
        self.drop_decision_of(before)

    @torch.no_grad()
    def encode_pairs(self, pair_ids: Any, progress: bool = False) -> Tensor:
        """Text features of any number of pairs under the active adapter, to score images against; without a gradient.

        They are computed in parts of `text_chunk_size` pairs, so that memory depends on the part and on the result.
        While the adapter is disabled, they are those of the hand-written prompts.

        Args:
            pair_ids: `[M, 2]`, numbers of attribute and object, or `[M, 3]` with two attributes.
            progress: show a bar.

        Returns:
            `[M, P]`, L2-normalised: `normalize(image) @ features.T` times the model's scale are logits.

        Raises:
            TypeError, ValueError: if there are no such pairs, or the adapter's method has none.
        """
        prompt = self.prompt_layer.prompt
        if "pair_ids" not in prompt.call_arguments:
            raise ValueError(f"The adapter is of {type(prompt).__name__}, which has no pairs: use `get_text_features`.")
        names = prompt.classes_of_call(pair_ids=pair_ids)
        return encode_in_parts(self, names, prompt.settings.text_chunk_size, progress)

    def param_groups(self, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """The trained weights as groups for an optimizer, with the rates that the active adapter's paper has for each.

        Args:
            learning_rate: of what has no rate of its own.
            weight_decay: likewise.

        Returns:
            `{"params": …, "lr": …, "weight_decay": …}` for each group.

        Raises:
            ValueError: if no adapter is active, or no weight is trained.
        """
        return param_groups(self, learning_rate, weight_decay)

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
    def prompt_layer(self) -> PromptEmbeddings:
        """The layer that holds the adapters' prompts."""
        return cast(PromptEmbeddings, self.get_submodule(self._prompt_family.embeddings))

    @property
    def _prompt_family(self) -> Family:
        return find_family(self)

    @property
    def text_is_frozen(self) -> bool:
        """Whether no weight of the text side is trained but the prompts."""
        prompts = {id(weight) for weight in self.prompt_layer.learned_prompts.parameters()}
        parts = [self.get_submodule(part) for part in self._prompt_family.text_parts]
        return not any(
            weight.requires_grad for part in parts for weight in part.parameters() if id(weight) not in prompts
        )

    def _classify(
        self,
        labels: Tensor | None = None,
        num_items: Tensor | int | None = None,
        texts: ClassTexts | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        **of_images: Any,
    ) -> ModelOutput:
        """Classify images under the adapter in use, into its classes or others: towers, head, loss."""
        layer = self.prompt_layer
        texts = texts or layer.texts
        prompt, head = layer.prompt, layer.prompt.task_head
        images = self._embed_images(pixel_values, image_embeds, of_images)
        if layer.disable_adapters:
            vectors, text_features = None, texts.zero_shot_features(text_tower(self))
        else:
            vectors = prompt.vectors(images if prompt.needs_images else None)
            text_features = encode_classes(self, texts, prompt, vectors)
        outputs = head.compare(self, None if vectors is None else prompt, images, text_features)
        if labels is not None:
            head.add_loss(outputs, labels, num_items, prompt.settings)
        if self.training and vectors is not None and (labels is not None or torch.is_grad_enabled()):
            step = training_step(
                self, outputs, images, labels, vectors, text_features.dtype, pixel_values, of_images, texts
            )
            if labels is None and num_items is not None:  # which only the Trainer gives
                warn_of_smoothing(head.no_smoothing)
            share = head.share_of_items(outputs, labels, num_items)
            name, beside = head.loss_name(prompt.settings), head.parts_beside(outputs, prompt.settings)
            outputs.loss, parts = with_terms(outputs.loss, name, prompt.extra_losses(step), share, beside)
            outputs.loss_parts = {**(parts or {}), **(outputs.loss_parts or {})} or None
        elif outputs.loss is not None and vectors is not None and outputs.loss.requires_grad:
            warn_of_evaluation_mode(prompt)
        return outputs

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
        logits_per_image = cosine_logits(image_embeds, text_embeds, *scale_and_bias(self, image_embeds))
        loss = None
        if return_loss:
            loss = contrastive_loss(logits_per_image, self._prompt_family)
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.t(),
            text_embeds=text_embeds,
            image_embeds=image_embeds,
        )
