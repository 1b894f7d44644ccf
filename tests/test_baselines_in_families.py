"""Baselines on image features work with every family of dual encoders: its own scale, bias and text tower."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from tiny_families import FAMILIES
from torch.nn.functional import normalize

from peft_coop.evaluation import CLIPAdapter, GaussianDiscriminant, LabelledImages, TipAdapter, TipAdapterF, TipValues
from peft_coop.evaluation.baselines.clip_adapter import FeatureAdapter
from peft_coop.evaluation.baselines.gaussian_discriminant import gaussian_logits
from peft_coop.evaluation.baselines.tip_cache import cache_logits
from peft_coop.evaluation.frozen_clip import FrozenCLIP
from peft_coop.towers import FAMILIES as ROWS

NAMES = ["cat", "big red dog", "ship"]
TEMPLATE = "a photo of a {}."
SUPPORTED = {key: family for key, family in FAMILIES.items() if family.model_type in ROWS}
FEW = TipValues(2.0, 3.0, 5.0, alpha_steps=3, beta_steps=4)

in_every_family = pytest.mark.parametrize("key", SUPPORTED)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Two plain colours of each class."""
    colours = ["red", "darkred", "lime", "green", "blue", "navy"]
    rows = {"image": [Pictures.new("RGB", (20, 28), colour) for colour in colours], "label": [0, 0, 1, 1, 2, 2]}
    train = Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}))
    return LabelledImages(NAMES, TEMPLATE, train, train.select([1, 3, 5]))


@pytest.fixture
def frozen(key, tmp_path) -> FrozenCLIP:
    family = SUPPORTED[key]
    family.make_tokenizer(tmp_path)
    if family.naflex:
        processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=6)
    else:
        processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    return FrozenCLIP(family.make_model(), SimpleNamespace(image_processor=processor, tokenizer=tokenizer), key)


def own_logits(key, frozen: FrozenCLIP, images: LabelledImages) -> torch.Tensor:
    """What the family's own forward says of the test images, here the training images."""
    pixels = dict(frozen.processor.image_processor(list(images.train["image"]), return_tensors="pt"))
    texts = [TEMPLATE.format(name) for name in NAMES]
    return SUPPORTED[key].own_logits(frozen.model, frozen.processor.tokenizer, pixels, texts)


def close(actual, expected) -> None:
    """In float32, with logits up to a hundred."""
    torch.testing.assert_close(torch.as_tensor(actual), expected.float(), atol=5e-3, rtol=1e-4)


@in_every_family
def test_a_cache_beside_the_familys_own_logits(key, frozen, images, tmp_path):
    own, embeds = own_logits(key, frozen, images), frozen.image_embeds(images.train)
    for method in (TipAdapter(FEW), TipAdapterF(num_epochs=2, values=FEW)):
        tip = method.fit(frozen, images, 1, tmp_path / method.key)
        votes = cache_logits(embeds @ tip.keys.T, torch.eye(3).repeat_interleave(2, dim=0), tip.beta)
        close(tip.logits(images.train, NAMES), own + tip.alpha * votes)


@in_every_family
def test_gaussians_beside_the_familys_own_logits(key, frozen, images, tmp_path):
    learned = GaussianDiscriminant().fit(frozen, images, 1, tmp_path)
    gaussian = gaussian_logits(frozen.image_embeds(images.train), learned.weight, learned.bias)
    close(learned.logits(images.train, NAMES), own_logits(key, frozen, images) + learned.alpha * gaussian)


@in_every_family
def test_adapted_features_have_the_familys_own_logits(key, frozen, images, tmp_path, monkeypatch):
    """An adapter that gives back what it gets."""
    learned = CLIPAdapter(num_epochs=2).fit(frozen, images, 1, tmp_path)
    assert torch.isfinite(torch.as_tensor(learned.logits(images.train, ["horse", "bird"]))).all()
    embeds = normalize(learned.adapter(frozen.image_features(images.train)), dim=-1)
    assert not torch.allclose(embeds, frozen.image_embeds(images.train), atol=1e-3)
    monkeypatch.setattr(FeatureAdapter, "forward", lambda self, features: features)
    close(learned.logits(images.train, NAMES), own_logits(key, frozen, images))
