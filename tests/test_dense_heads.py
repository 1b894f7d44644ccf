"""Modules of dense prediction: the numbers of DenseCLIP's own code, and what must never be silent."""

import re

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_case
from torch import nn

from peft_coop.heads.dense import (
    FPN,
    ContextDecoder,
    Pyramid,
    Segformer,
    SemanticFPNHead,
    UperNet,
    checked_labels,
    pixel_cross_entropy,
    score_map,
)

# Float64 arithmetic on numbers that were computed in float32: ten times what was seen.
CLOSE = {"atol": 4e-5, "rtol": 0}
PARTS = {"context_decoder": "context_decoder.", "pyramid": "backbone.", "neck": "neck.", "head": "decode_head."}


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("denseclip", request.param)


def filled(module: nn.Module, case, part: str) -> nn.Module:
    """A module with the original's tensors, which have the same names, in float64 and evaluation mode."""
    start = "model/" + PARTS[part]
    tensors = {key.removeprefix(start): value for key, value in case.all.items() if key.startswith(start)}
    module.load_state_dict(tensors)
    return module.double().eval()


def stored(case, name: str) -> torch.Tensor:
    return case.tensors[name].double()


def test_context_decoder(case):
    sizes = case.decoder
    decoder = filled(ContextDecoder(48, sizes["width"], sizes["layers"], sizes["heads"]), case, "context_decoder")
    places = stored(case, "eval.dense_embed")
    memory = torch.cat([stored(case, "eval.global_embed")[:, None], places.flatten(2).transpose(1, 2)], dim=1)
    text = case.all["text_bank"].double().expand(len(places), -1, -1)
    found = decoder(text, memory)
    torch.testing.assert_close(found, stored(case, "eval.decoder_out"), **CLOSE)
    text_embeds = text + case.all["model/gamma"] * found
    torch.testing.assert_close(text_embeds, stored(case, "eval.text_embeds"), **CLOSE)
    torch.testing.assert_close(score_map(places, text_embeds), stored(case, "eval.score_map"), **CLOSE)


def test_neck_head_and_losses(case):
    pyramid = [stored(case, f"eval.pyramid{level}") for level in range(4)]
    pyramid[case.score_level] = torch.cat([pyramid[case.score_level], stored(case, "eval.score_map")], dim=1)
    neck = filled(FPN([level.shape[1] for level in pyramid], case.fpn_channels), case, "neck")
    levels = neck(pyramid)
    for index, level in enumerate(levels):
        torch.testing.assert_close(level, stored(case, f"eval.neck{index}"), **CLOSE)
    n_classes = len(case.class_names)
    head = filled(SemanticFPNHead(case.fpn_channels, case.head_channels, n_classes), case, "head")
    logits = head(levels)
    torch.testing.assert_close(logits, stored(case, "eval.logits"), **CLOSE)
    labels = case.tensors["labels"]
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), stored(case, "eval.loss_decode"), **CLOSE)
    auxiliary = pixel_cross_entropy(stored(case, "eval.score_map") / case.tau, labels)
    torch.testing.assert_close(case.aux_loss_weight * auxiliary, stored(case, "eval.loss_aux"), **CLOSE)


def test_sizes_of_a_pyramid_and_what_it_cannot_reduce():
    pyramid = Pyramid(6)
    maps = [torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(index)).movedim(3, 1) for index in range(4)]
    for each in maps:
        each.requires_grad_()
    levels = pyramid(maps)
    assert [tuple(level.shape) for level in levels] == [(2, 6, 12, 20), (2, 6, 6, 10), (2, 6, 3, 5), (2, 6, 1, 2)]
    sum(level.square().sum() for level in levels).backward()
    assert all(each.grad.abs().sum() > 0 for each in maps)
    with pytest.raises(ValueError, match=r"needs 4 maps of 2 x 2 places or more, got 4 .* \(2, 6, 1, 3\)"):
        pyramid([torch.randn(2, 6, 1, 3)] * 4)
    with pytest.raises(ValueError, match=r"needs 4 maps .* got 3"):
        pyramid(maps[:3])


@pytest.mark.parametrize("head_class", [UperNet, Segformer, SemanticFPNHead])
def test_heads_on_levels_of_odd_sizes(head_class):
    """A level of 3 x 5 places has one of 1 x 2 above it: all of them are enlarged to the first one's size."""
    torch.manual_seed(0)
    widths = [6] * 4 if head_class is SemanticFPNHead else [6, 7, 9, 8]
    levels = [
        torch.randn(2, width, *size) for width, size in zip(widths, [(12, 20), (6, 10), (3, 5), (1, 2)], strict=True)
    ]
    head = head_class(widths[0] if head_class is SemanticFPNHead else widths, 8, 3, dropout=0.5).double().train()
    logits = head([level.double() for level in levels])
    assert logits.shape == (2, 3, 12, 20)
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in head.parameters())
    assert not torch.equal(logits, head([level.double() for level in levels]))  # dropout
    moved = [buffer for name, buffer in head.named_buffers() if name.endswith("running_mean")]
    assert all(buffer.abs().sum() > 0 for buffer in moved)
    head.eval()
    with torch.no_grad():
        one = head([level[:1].double() for level in levels])
        torch.testing.assert_close(one, head([level.double() for level in levels])[:1], atol=1e-9, rtol=1e-9)


def test_upernet_says_that_one_image_has_no_statistics():
    head = UperNet([4] * 4, 8, 3).train()
    levels = [torch.randn(1, 4, size, size) for size in (16, 8, 4, 2)]
    with pytest.raises(ValueError, match="batch norm of a single image has no statistics"):
        head(levels)


def test_start_of_what_is_drawn():
    """The decoder's linear layers, and the convolutions of neck and head: fan out, as mmcv draws them."""
    torch.manual_seed(0)
    decoder = ContextDecoder(64, 64)
    weights = torch.cat([each.weight.flatten() for each in decoder.modules() if isinstance(each, nn.Linear)])
    assert 0.019 < weights.std() < 0.021
    assert all(
        not each.bias.any() for each in decoder.modules() if isinstance(each, nn.Linear) and each.bias is not None
    )
    neck, head = FPN([64, 128, 64, 64], 64), SemanticFPNHead(64, 32, 5)
    assert neck.lateral_convs[1].conv.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert head.scale_heads[0][0].conv.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert not neck.fpn_convs[0].conv.bias.any()


def test_dropout_of_the_decoder():
    torch.manual_seed(0)
    decoder, text, memory = ContextDecoder(8, 16, 1, 2, dropout=0.5), torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    assert not torch.equal(decoder(text, memory), decoder(text, memory))
    decoder.eval()
    assert torch.equal(decoder(text, memory), decoder(text, memory))
    with pytest.raises(ValueError, match="width of 10 cannot be shared out to 4 heads"):
        ContextDecoder(8, 10, 1, 4)


def test_classes_of_the_decoder_have_no_order_and_know_each_other():
    torch.manual_seed(0)
    decoder = ContextDecoder(8, 16, 2, 4).double().eval()
    text, memory, order = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 8).double(), [3, 0, 4, 1, 2]
    found = decoder(text, memory)
    torch.testing.assert_close(decoder(text[:, order], memory), found[:, order], atol=1e-9, rtol=1e-9)
    assert (decoder(text[:, :4], memory) - found[:, :4]).abs().max() > 1e-5


def test_loss_of_pixels():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (2, 8, 10), generator=random)
    labels[0, :4] = 255
    enlarged = F.interpolate(logits, scale_factor=2, mode="bilinear")
    by_hand = enlarged.log_softmax(1).movedim(1, -1)[labels != 255].gather(1, labels[labels != 255][:, None])
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), -by_hand.mean(), atol=1e-12, rtol=0)
    # The original divides by all pixels: the ratio is the share of those with a label.
    all_pixels = F.cross_entropy(enlarged, labels, ignore_index=255, reduction="sum") / labels.numel()
    torch.testing.assert_close(all_pixels, pixel_cross_entropy(logits, labels) * 0.75, atol=1e-12, rtol=0)
    assert pixel_cross_entropy(logits.half(), labels).dtype == torch.float32


def test_without_any_label_the_loss_is_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 8, 8), 255))
    assert loss == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 8, 8), "integers of shape (2, height, width), one for every pixel, got torch.float32"),
        (torch.zeros(2, 8, dtype=torch.long), "got torch.int64 of shape (2, 8)"),
        (torch.zeros(3, 8, 8, dtype=torch.long), "of shape (3, 8, 8)"),
        (torch.full((2, 8, 8), 3), "between 0 and 2 (3 classes), or be 255 where a pixel does not count (`ignore_"),
        (torch.full((2, 8, 8), -100), "got [-100]"),
        ([[["sky"]]], "must be integers of shape (images, height, width)"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        checked_labels(labels, torch.zeros(2, 3, 4, 4), 255)


def test_labels_of_other_kinds():
    labels = checked_labels([[[0, 2], [7, 1]]], torch.zeros(1, 3, 4, 4), ignore_index=7)
    assert labels.dtype == torch.long
    assert labels.tolist() == [[[0, 2], [7, 1]]]
    assert checked_labels(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 3, 4, 4), 255).dtype == torch.long
