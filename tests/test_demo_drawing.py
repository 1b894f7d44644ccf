"""Shapes and styles that the demo draws."""

import numpy as np
import pytest

from peft_coop.demo.composition_images import OBJECTS
from peft_coop.demo.drawing import HELD_OUT, SIZES, TEXTURES, ShapePicture, all_pairs, draw_shape, sample_picture
from peft_coop.demo.outlines import OUTLINES, shape_mask
from peft_coop.demo.styles import BACKGROUNDS, COLOURS, STYLES
from peft_coop.demo.textures import COARSE_TEXTURES, FINE_TEXTURES, PlacedShape


def mask_of(shape, **changes):
    settings = {"size": 48, "radius": 16.0, "centre": (24.0, 24.0), "turn": 0.0, "stretch": 1.0}
    return shape_mask(shape, **(settings | changes))


def test_every_shape_has_its_own_mask():
    masks = {shape: mask_of(shape) for shape in OUTLINES}
    for shape, mask in masks.items():
        assert mask.shape == (48, 48)
        assert mask.min() == 0
        assert mask.max() == 1
        assert mask[[0, -1]].max() == mask[:, [0, -1]].max() == 0, f"{shape} is cut off at the rim"
        for other in masks.keys() - {shape}:
            assert np.abs(mask - masks[other]).mean() > 0.02, f"{shape} looks like {other}"


def test_area_of_a_circle():
    assert mask_of("circle").sum() == pytest.approx(np.pi * (0.95 * 16) ** 2, rel=0.02)


def test_a_ring_is_hollow():
    assert mask_of("ring")[24, 24] == 0
    assert mask_of("circle")[24, 24] == 1


def test_turning_is_clockwise():
    turned = mask_of("arrow", turn=90.0)
    assert turned[:, 24:].sum() > turned[:, :24].sum() * 1.2


def test_unknown_shape_names_the_known_ones():
    with pytest.raises(ValueError, match=r"`shape` must be one of \['arrow', .*, got 'cube'"):
        mask_of("cube")


@pytest.mark.parametrize("style", STYLES)
def test_styles_draw_every_colour_differently(style):
    pictures = [
        draw_shape(ShapePicture(colour, "square", style, size="large"), np.random.default_rng(0)) for colour in COLOURS
    ]
    assert all(picture.shape == (48, 48, 3) and picture.dtype == np.uint8 for picture in pictures)
    means = np.array([picture.reshape(-1, 3).mean(axis=0) for picture in pictures])
    distances = np.abs(means[:, None] - means[None]).sum(axis=2) + 1e3 * np.eye(len(means))
    assert distances.min() > 1.0


def pattern_on(shape, texture, turn=0.0):
    """The mask and the texture inside of it."""
    mask = mask_of(shape, turn=turn)
    return mask, texture(PlacedShape(mask, 16.0, (24.0, 24.0), turn), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("textures", "shape"),
    [(FINE_TEXTURES, shape) for shape in OUTLINES] + [(COARSE_TEXTURES, shape) for shape in OBJECTS],
)
def test_every_texture_is_seen_on_every_shape(textures, shape):
    patterns = {name: pattern_on(shape, texture) for name, texture in textures.items()}
    for name, (mask, pattern) in patterns.items():
        assert pattern.shape == mask.shape
        assert pattern.min() >= 0
        assert pattern.max() <= 1
        for other in patterns.keys() - {name}:
            difference = np.average(np.abs(pattern - patterns[other][1]), weights=mask)
            assert difference > 0.05, f"a {name} {shape} looks like a {other} one"


def test_a_texture_turns_with_its_shape():
    _, upright = pattern_on("square", COARSE_TEXTURES["halved"])
    assert upright[24, 30] == 1
    assert upright[24, 18] == 0
    _, turned = pattern_on("square", COARSE_TEXTURES["halved"], turn=90.0)  # clockwise: right is now below
    assert turned[30, 24] == 1
    assert turned[18, 24] == 0


def test_a_spot_is_on_the_shape_where_its_middle_is_not():
    mask, pattern = pattern_on("moon", COARSE_TEXTURES["spotted"])
    assert np.average(1 - pattern, weights=mask) > 0.15


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_any_mixture_can_be_drawn(texture, size, background):
    picture = ShapePicture("red", "star", "icon", texture, size, background)
    drawn = draw_shape(picture, np.random.default_rng(0)).astype(int)
    reddish = (drawn[..., 0] > 150) & (drawn[..., 0] - drawn[..., 2] > 90) & (drawn[..., 1] < 90)
    assert reddish.sum() > 20


def test_the_same_generator_draws_the_same():
    def draw(seed):
        rng = np.random.default_rng(seed)
        return draw_shape(sample_picture(rng, {"photo": 1, "night": 1}, all_pairs()), rng)

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_held_out_combinations_are_twenty_real_ones():
    assert len(set(HELD_OUT)) == len(HELD_OUT) == 20
    assert len(all_pairs(without=HELD_OUT)) == len(COLOURS) * len(OUTLINES) - 20


def test_every_held_out_colour_and_shape_is_trained_in_other_combinations():
    trained = all_pairs(without=HELD_OUT)
    for colour, shape in HELD_OUT:
        assert sum(c == colour for c, _ in trained) >= 5
        assert sum(s == shape for _, s in trained) >= 5
