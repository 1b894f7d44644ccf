"""Heads for segmentation that transformers has, on a pyramid of any widths.

They are imported when one is made: `import peft_coop` does not wait for models that it may never need.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class UperNet(nn.Module):
    """transformers' UperNet head: pools the smallest level at several scales, and adds the levels up from there.

    Args:
        in_channels: of the levels, the largest map first.
        channels: of the head.
        n_classes: K.
        dropout: the share of whole channels left out before the classifier, as in mmsegmentation.

    Reference: Unified Perceptual Parsing (arXiv:1807.10221).
    """

    def __init__(self, in_channels: Sequence[int], channels: int, n_classes: int, dropout: float = 0.1):
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetHead

        super().__init__()
        self.head = UperNetHead(UperNetConfig(hidden_size=channels, num_labels=n_classes), list(in_channels))
        self.head.apply(start)
        self.head.classifier = nn.Sequential(nn.Dropout2d(dropout), self.head.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits `[B, K, h, w]` from levels `[B, in_channels[i], ., .]`, the first of which is h by w.

        Raises:
            ValueError: if a single image is trained on.
        """
        if self.head.training and len(levels[0]) == 1:
            raise ValueError(
                "The UperNet head pools a level to one place, over which a batch norm of a single image has no "
                "statistics: train on two images or more at once, or take another `head`."
            )
        return self.head(tuple(levels))


class Segformer(nn.Module):
    """transformers' SegFormer head: a linear layer for each level, all enlarged, and a batch norm.

    Args:
        in_channels: of the levels, the largest map first.
        channels: of the head.
        n_classes: K.
        dropout: the share left out before the classifier.

    Reference: SegFormer (arXiv:2105.15203).
    """

    def __init__(self, in_channels: Sequence[int], channels: int, n_classes: int, dropout: float = 0.1):
        from transformers import SegformerConfig
        from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

        super().__init__()
        config = SegformerConfig(
            num_encoder_blocks=len(in_channels),
            hidden_sizes=list(in_channels),
            decoder_hidden_size=channels,
            num_labels=n_classes,
            classifier_dropout_prob=dropout,
        )
        self.head = SegformerDecodeHead(config)
        self.head.apply(start)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits `[B, K, h, w]` from levels `[B, in_channels[i], ., .]`, the first of which is h by w."""
        return self.head(tuple(levels))


def start(module: nn.Module) -> None:
    """Draw weights as transformers does for both models."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
