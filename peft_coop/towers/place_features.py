"""What a vision tower makes of every place of an image, and not only of the whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .families import find_family, norm_and_projection, vision_layers
from .mixed_classes import mix_in
from .states_between import StatesBehind, changing, open_up
from .stochastic_depth import stochastic_depth
from .vision_tower import is_vision_frozen

# Whether each thread reads images as the original does, at the moment.
_now = threading.local()


@dataclass(frozen=True)
class PlaceFeatures:
    """An image, place by place.

    Shapes: B images, W width of the vision tower, P projection width, h and w places: one for each patch.

    Attributes:
        maps: of some layers, the hidden states behind them, each `[B, W, h, w]`.
        image: `[B, P]`, the projected feature of the whole image, not normalised.
        places: `[B, P, h, w]`, the projected features of its places, not normalised.
    """

    maps: tuple[Tensor, ...]
    image: Tensor
    places: Tensor

    @property
    def tokens(self) -> Tensor:
        """`[B, 1 + h*w, P]`: the whole image, and then its places row by row."""
        return torch.cat([self.image[:, None], self.places.flatten(2).transpose(1, 2)], dim=1)


def features_of_places(
    model: nn.Module,
    pixel_values: Tensor,
    out_indices: Sequence[int] = (),
    interpolate_pos_encoding: bool = True,
    drop_path: float = 0.0,
    reference_quirks: bool = False,
) -> PlaceFeatures:
    """Features of every place of images, by the model's own forward, its final norm and its projection.

    A frozen tower needs no graph.

    Args:
        model: a dual encoder whose vision tower is a ViT of CLIP's kind.
        pixel_values: `[B, 3, H, W]`, of any size that its patches fill.
        out_indices: the layers, from 0, whose hidden states are wanted.
        interpolate_pos_encoding: whether positions are resized, bicubic, where images are not of the tower's own size.
        drop_path: of stochastic depth, where the tower is in training.
        reference_quirks: resize positions bilinearly, and add the class embedding a second time, as DenseCLIP's code.

    Raises:
        ValueError: if the tower has no such features or layers, or the images do not fit its patches.

    Reference: DenseCLIP (arXiv:2112.01518).
    """
    norm, projection = norm_and_projection(model)
    check_size(model, pixel_values, interpolate_pos_encoding)
    layers = vision_layers(model)
    check_layers(out_indices, len(layers))
    learns = (pixel_values.requires_grad or not is_vision_frozen(model)) and torch.is_grad_enabled()
    own = getattr(type(model), "__base_class__", type(model)).get_image_features
    of_images = {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolate_pos_encoding}
    if not torch.compiler.is_compiling():  # copies of `modules_to_save` may be new
        open_places(model)
    with torch.set_grad_enabled(learns), stochastic_depth(layers, drop_path), _quirks(reference_quirks):
        with changing(behind := StatesBehind(out_indices)):
            states = own(model, **of_images, return_dict=True).last_hidden_state
        tokens = projection(norm(states))
        grid = [size // patch_size(model) for size in pixel_values.shape[-2:]]
        maps = tuple(as_map(behind.noted[index], grid) for index in out_indices)
    return PlaceFeatures(maps, tokens[:, 0], as_map(tokens, grid))


def open_places(model: nn.Module) -> None:
    """Make the vision tower ready for `features_of_places`; a no-op if it is.

    Raises:
        ValueError: if it has no such features.
    """
    norm_and_projection(model)
    open_up(list(vision_layers(model)))
    # What PEFT's wrapper of a trained copy gives is the copy in use.
    mix_in(model.get_submodule(find_family(model).vision_embeddings), OriginalPositions)


def as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """The places `[B, ., h, w]` of tokens `[B, 1 + h*w, .]`."""
    return tokens[:, 1:].transpose(1, 2).unflatten(-1, tuple(grid))


def patch_size(model: nn.Module) -> int:
    """The side of a patch of the vision tower, in pixels."""
    return model.config.vision_config.patch_size


def vision_width(model: nn.Module) -> int:
    """W, the width of the vision tower's hidden states."""
    return model.config.vision_config.hidden_size


def check_layers(out_indices: Sequence[int], n_layers: int) -> None:
    """Check which layers are read.

    Raises:
        ValueError: if the tower does not have them all.
    """
    foreign = [index for index in out_indices if not 0 <= index < n_layers]
    if foreign:
        raise ValueError(
            f"`out_indices` {list(out_indices)} names layers that this vision tower has not: its {n_layers} layers "
            f"count from 0 to {n_layers - 1}."
        )


def check_size(model: nn.Module, pixel_values: Tensor, interpolate_pos_encoding: bool) -> None:
    """Check that patches fill the images, and that these have positions.

    Raises:
        ValueError: if not.
    """
    side, own = patch_size(model), model.config.vision_config.image_size
    sizes = tuple(pixel_values.shape[-2:])
    if pixel_values.ndim != 4 or any(size % side or not size for size in sizes):
        raise ValueError(
            f"`pixel_values` must be (images, channels, height, width), the last two multiples of the patches' "
            f"{side} pixels; got {tuple(pixel_values.shape)}. Resize or pad the images, or give larger ones to "
            "`slide_inference`."
        )
    if not interpolate_pos_encoding and sizes != (own, own):
        raise ValueError(
            f"This vision tower has positions for images of {own} x {own} pixels, got {sizes[0]} x {sizes[1]}: give "
            "`interpolate_pos_encoding=True`."
        )


@contextmanager
def _quirks(active: bool) -> Iterator[None]:
    """Let the vision tower's embeddings have positions as in DenseCLIP's code, in this thread."""
    before = getattr(_now, "quirks", False)
    _now.quirks = active
    try:
        yield
    finally:
        _now.quirks = before


class OriginalPositions:
    """Mixed into a vision tower's embeddings: within `_quirks`, its positions are those of DenseCLIP's code."""

    given = ()

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Positions `[1, 1 + h*w, W]`, resized bilinearly, and the class embedding added to those of the first token.

        Args:
            embeddings: what they will be added to.
            height: of the images, in pixels.
            width: likewise.
        """
        own = cast(Any, self)
        if not getattr(_now, "quirks", False):
            return cast(Any, super()).interpolate_pos_encoding(embeddings, height, width)
        table = own.position_embedding.weight  # [1 + places, W]
        side = round((len(table) - 1) ** 0.5)
        grid = table[1:].t().unflatten(-1, (side, side))[None]
        size = (height // own.patch_size, width // own.patch_size)
        resized = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        first = table[:1] + own.class_embedding
        return torch.cat([first, resized[0].flatten(1).t()])[None]
