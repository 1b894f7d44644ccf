"""The pretraining script: what it draws and says, and that it runs."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from forked import run_forked
from packaging.version import Version
from transformers import CLIPModel, CLIPProcessor

from peft_coop.demo import load_clip, load_processor, load_task
from peft_coop.demo.drawing import HELD_OUT, ShapePicture
from peft_coop.demo.outlines import OUTLINES

FOLDER = Path(__file__).parents[1] / "examples" / "demo_pretraining"
needs_all_fonts = pytest.mark.skipif(
    Version(matplotlib.__version__) < Version("3.11"), reason="matplotlib before 3.11 has not all fonts that are drawn"
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def chosen():
    from corpus import choose_picture

    return [choose_picture(np.random.default_rng([0, index])) for index in range(6000)]


def test_held_out_combinations_are_never_drawn(chosen):
    drawn = {(p.colour, p.shape) for p in chosen if isinstance(p, ShapePicture)}
    assert len(drawn) == 8 * len(OUTLINES) - len(HELD_OUT)
    assert not drawn & set(HELD_OUT)


def test_held_out_combinations_are_never_named(chosen):
    from captions import caption

    rng = np.random.default_rng(0)
    captions = [caption(picture, rng) for picture in chosen]
    assert any("red star" in text for text in captions)
    for colour, shape in HELD_OUT:
        assert not any(f"{colour} {shape}" in text for text in captions)


def test_captions_vary_and_name_what_is_seen(chosen):
    from captions import DIGIT_WORDS, caption

    rng = np.random.default_rng(0)
    for picture in chosen[:50]:
        wordings = {caption(picture, rng) for _ in range(30)}
        assert len(wordings) >= 5
        if isinstance(picture, ShapePicture):
            assert all(picture.colour in text and picture.shape in text for text in wordings)
        elif picture.glyph.isdigit():
            assert all(DIGIT_WORDS[int(picture.glyph)] in text or picture.glyph in text for text in wordings)


def test_equal_captions_share_a_column():
    from pretrain import distinct

    texts, text_of_image = distinct(["a red ring", "the digit two", "a red ring", "a small b"])
    assert texts == ["a red ring", "the digit two", "a small b"]
    assert text_of_image.tolist() == [0, 1, 0, 2]


def test_loss_is_clips_own_when_every_caption_is_different():
    from pretrain import contrastive_loss

    texts = load_processor().tokenizer(["a red ring", "the digit two", "a small b"], padding=True, return_tensors="pt")
    pixel_values = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = load_clip()(**texts, pixel_values=pixel_values, return_loss=True)
    assert contrastive_loss(output.logits_per_image, torch.arange(3)).item() == pytest.approx(
        output.loss.item(), rel=1e-5
    )


def test_loss_treats_images_of_one_caption_alike():
    from pretrain import contrastive_loss

    text_of_image = torch.tensor([0, 1, 0])
    perfect = torch.tensor([[20.0, -20.0], [-20.0, 20.0], [20.0, -20.0]])
    # Images are never confused; a text has two images to choose from, each with one half.
    assert contrastive_loss(perfect, text_of_image) == pytest.approx(np.log(2) / 4, abs=1e-4)


@needs_all_fonts
def test_pictures_do_not_depend_on_the_number_of_processes():
    from corpus import draw_corpus, draw_one

    pictures, pixels = draw_corpus(1010, seed=3, n_processes=2)
    assert len(pictures) == len(pixels) == 1010
    for index in (0, 999, 1000, 1009):
        picture, alone = draw_one(3, index)
        assert picture == pictures[index]
        assert np.array_equal(alone, pixels[index])


@needs_all_fonts
@pytest.mark.parametrize("writing", ["pen", "plain", "bold", "italic", "serif", "typewriter"])
def test_glyphs_are_drawn_whole_and_differ(writing):
    from glyphs import DIGITS, GlyphPicture, draw_glyph

    drawn = [draw_glyph(GlyphPicture(d, writing, "icon"), np.random.default_rng(5)).astype(int) for d in DIGITS]
    for picture in drawn:
        assert picture.shape == (48, 48, 3)
        assert picture.max() > 150
        assert (picture.max(axis=2) > 100).mean() > 0.05
    assert min(np.abs(a - b).mean() for i, a in enumerate(drawn) for b in drawn[:i]) > 5


def test_training_sees_what_the_image_processor_gives():
    from pretrain import to_pixel_values

    image = load_task("shapes").train[0]["image"]
    expected = load_processor()(images=[image], return_tensors="pt").pixel_values
    given = to_pixel_values(np.array(image)[None])
    assert given.shape == expected.shape == (1, 3, 48, 48)
    assert (given - expected).abs().max() < 1e-5


def test_smoke_run_saves_a_model_that_loads(tmp_path):
    run = run_forked(FOLDER / "pretrain.py", "--smoke", "--output", tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "shapes: zero-shot" in run.stdout
    assert "digits: zero-shot" in run.stdout
    assert CLIPModel.from_pretrained(tmp_path).num_parameters() < 1_500_000
    assert CLIPProcessor.from_pretrained(tmp_path).tokenizer.model_max_length == 40
