"""Prompts in every family of dual encoders, against the family's own forward on the same texts.

In float64, where the family's own code computes in it; AIMv2's norm and ALIGN's softmax are float32 in any case.
"""

import threading
from dataclasses import replace
from functools import cache

import datasets
import pytest
import torch
import transformers
from method_kinds import COVERING_TOWERS, PLAIN_KINDS, fits_family, in_turn
from model_copies import copies_of
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from task_inputs import as_given, labels_as_given
from tiny_families import FAMILIES, REFUSED, ROBERTA, TEXT, make_refused
from torch import nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    SiglipTextModel,
    SiglipVisionModel,
    Trainer,
    TrainingArguments,
)

from peft_coop import CoOpConfig, join_towers
from peft_coop.data import with_image_embeds
from peft_coop.methods import METHODS
from peft_coop.towers import FAMILIES as ROWS
from peft_coop.towers import text_memory, text_tower

NAMES = ["cat", "big red dog", "ship"]
TEXTS = [f"a photo of a {name}." for name in NAMES]
SUPPORTED = {key: family for key, family in FAMILIES.items() if family.model_type in ROWS}
in_every_family = pytest.mark.parametrize("key", SUPPORTED)


@pytest.fixture(scope="module")
def folders(family_tokenizer):
    """Each family's tokenizer, in a folder."""
    tokenizers = {key: family_tokenizer(family) for key, family in SUPPORTED.items()}
    return {key: (tokenizer.name_or_path, tokenizer) for key, tokenizer in tokenizers.items()}


@cache
def drawn(key):
    return copies_of(SUPPORTED[key].make_model().double())


def make(key):
    return drawn(key)()


def images_of(key, batch=3):
    images = SUPPORTED[key].image_inputs(batch)
    return {name: value.double() if value.is_floating_point() else value for name, value in images.items()}


@pytest.fixture
def config(folders):
    def make_config(key, method="coop", **settings):
        settings = {"class_names": NAMES, "ctx_init": "a photo of a", "n_ctx": None} | settings
        return METHODS[method].config(tokenizer_name_or_path=folders[key][0], **settings)

    return make_config


def draw_prompt(model):
    """Draw all that is learned; positive where it is a bias, so that no hidden unit is switched off for all images."""
    for name, weight in model.prompt_layer.prompt.named_parameters():
        nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(3))
        if name.endswith("bias"):
            weight.data.abs_().add_(1)


def own_logits(key, folders, texts=TEXTS):
    return SUPPORTED[key].own_logits(make(key), folders[key][1], images_of(key), texts)


def close(actual, expected, key):
    torch.testing.assert_close(actual, expected, atol=1e-5 if key in ("aimv2", "align") else 1e-9, rtol=0)


def test_the_table_holds_what_is_tested():
    assert {family.model_type for family in SUPPORTED.values()} == set(ROWS)
    assert len(SUPPORTED) >= 15
    assert {key for key in FAMILIES if key not in SUPPORTED} == {"flava"}  # refused, see below


@in_every_family
@pytest.mark.parametrize(
    ("position", "template"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_words_as_vectors_give_the_familys_own_logits(key, folders, config, position, template):
    """And so does the disabled adapter, which is the family's own zero-shot classification."""
    model = get_peft_model(make(key), config(key, class_token_position=position)).eval()
    texts = [template.format(name) for name in NAMES]
    with torch.no_grad():
        close(model(**images_of(key)).logits, own_logits(key, folders, texts), key)
        with model.disable_adapter():
            close(model(**images_of(key)).logits, own_logits(key, folders), key)


@in_every_family
def test_a_fixed_text_behind_the_context(key, folders, config):
    words = config(key, ctx_init="a photo", class_template="of a {}, a type of pet.")
    model = get_peft_model(make(key), words).eval()
    texts = [f"a photo of a {name}, a type of pet." for name in NAMES]
    with torch.no_grad():
        close(model(**images_of(key)).logits, own_logits(key, folders, texts), key)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (key, kind)
        for index, (key, family) in enumerate(SUPPORTED.items())
        for kind in in_turn([kind for kind in PLAIN_KINDS if kind.method in COVERING_TOWERS], index, 5)
        if fits_family(kind, family.model_type)
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_gradients_reach_what_is_learned_alone(key, folders, kind):
    """In one pass, and in parts that are computed again; towers in training mode neither drop nor count."""
    config = kind.config(class_names=["old cat", "old dog", "big ship"], tokenizer_name_or_path=folders[key][0])
    model = get_peft_model(make(key), config).double()
    draw_prompt(model)
    images = as_given(kind.method, images_of(key))
    labels = labels_as_given(kind.method, torch.tensor([0, 1, 2]), images)
    with torch.no_grad():
        expected = model.eval()(**images).logits
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    gradients = []
    for gigabytes in (None, 1e-9):
        model.set_prompt_memory(gigabytes)
        model.train()
        output = model(**images, labels=labels)
        torch.testing.assert_close(output.logits, expected, atol=1e-9, rtol=0)
        model.zero_grad()
        output.loss.backward()
        reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
        assert reached == {name for name, _ in model.named_parameters() if ".learned_prompts." in name}
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if name in reached})
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-9, rtol=1e-6)
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


@in_every_family
def test_one_set_of_vectors_per_image_is_each_image_alone(key, config):
    model = get_peft_model(make(key), config(key, "cocoop")).double().eval()
    draw_prompt(model)
    images = images_of(key)
    with torch.no_grad():
        together = model(**images).logits
        alone = [model(**{name: value[[index]] for name, value in images.items()}).logits for index in range(3)]
    close(together, torch.cat(alone), key)


@in_every_family
def test_saved_and_loaded(key, config, tmp_path):
    model = get_peft_model(make(key), config(key, "cocoop")).double().eval()
    draw_prompt(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**images_of(key)).logits
        loaded = PeftModel.from_pretrained(make(key), tmp_path).double().eval()
        torch.testing.assert_close(loaded(**images_of(key)).logits, expected, atol=1e-6, rtol=1e-5)
        loaded.set_classes(["horse", "bird"])
        assert loaded(**images_of(key)).logits.shape == (3, 2)
        assert (tmp_path / "README.md").is_file()
        base = loaded.unload()
        assert type(base) is type(make(key))
        assert base.state_dict().keys() == make(key).state_dict().keys()


@in_every_family
def test_features_are_kept_until_a_weight_changes(key, config, monkeypatch):
    model, fresh = (get_peft_model(make(key), config(key)).eval() for _ in range(2))
    tower = type(text_tower(model.get_base_model()))
    encode, calls = tower.encode, []
    monkeypatch.setattr(tower, "encode", lambda *given, **more: calls.append(1) or encode(*given, **more))
    with torch.no_grad():
        first, again = (model.get_text_features().pooler_output for _ in range(2))
        assert torch.equal(first, again)
        assert len(calls) == 1
        name = next(name for name, _ in model.named_parameters() if "text_model" in name and "layer" in name)
        for each in (model, fresh):
            each.get_parameter(name).mul_(1.5)
        changed = model.get_text_features().pooler_output
        torch.testing.assert_close(changed, fresh.get_text_features().pooler_output, atol=1e-9, rtol=0)
    assert not torch.allclose(changed, first)


@in_every_family
def test_a_trainer_step(key, config, tmp_path):
    model = get_peft_model(make(key).float(), config(key, loss_type="sigmoid" if "siglip" in key else "softmax"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    images = SUPPORTED[key].image_inputs(4)
    rows = [{name: value[index] for name, value in images.items()} | {"label": index % 3} for index in range(4)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=0.1, report_to="none", use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".learned_prompts." in name}


def test_the_sigmoid_loss_is_siglips(folders, config):
    """Of images that each have a text of their own, SigLIP's own loss."""
    model = get_peft_model(make("siglip"), config("siglip", loss_type="sigmoid")).train()
    loss = model(**images_of("siglip"), labels=torch.tensor([0, 1, 2])).loss
    texts = SUPPORTED["siglip"].text_inputs(folders["siglip"][1], TEXTS)
    own = make("siglip")(**texts, **images_of("siglip"), return_loss=True).loss
    torch.testing.assert_close(loss, own, atol=1e-9, rtol=0)
    parts = model(**images_of("siglip"), labels=torch.tensor([0, 1, 2])).loss_parts
    assert set(parts) == {"sigmoid"}
    with pytest.raises(ValueError, match=r"`loss_type` must be one of \('softmax', 'sigmoid'\), got 'hinge'"):
        CoOpConfig(loss_type="hinge")


@in_every_family
def test_given_texts_are_compared_as_the_family_does(key, folders, config):
    """The learned words put into given texts, and the loss that the family was trained with.

    Tokenised alone, texts have other tokens than behind a word where the vocabulary is SigLIP 2's or RoBERTa's.
    """
    model = get_peft_model(make(key), config(key)).eval()
    given = SUPPORTED[key].text_inputs(folders[key][1], ["cat.", "big dog.", "ship."])
    whole = SUPPORTED[key].text_inputs(
        folders[key][1], [f"a photo of a {name}." for name in ("cat", "big dog", "ship")]
    )
    with torch.no_grad():
        output = model(**given, **images_of(key), return_loss=True)
        own = make(key)(**whole, **images_of(key), return_loss=True)
    close(output.logits_per_image, own.logits_per_image, key)
    if key != "aimv2":  # which has none
        close(output.loss, own.loss, key)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("key", ["clip", "siglip", "siglip.2", "vision-text-dual-encoder.roberta-clip"])
def test_names_given_at_call_time_are_the_same_prompts(key, position, folders, config):
    model = get_peft_model(make(key), config(key, class_token_position=position)).eval()
    given = SUPPORTED[key].text_inputs(folders[key][1], [f"{name}." for name in NAMES])
    images = images_of(key)
    with torch.no_grad():
        close(model(**given, **images).logits_per_image, model(**images).logits, key)


def test_texts_of_one_length_are_causal_too(folders, config):
    """AIMv2's own tower is so only in a batch that holds a padded text."""
    model = get_peft_model(make("aimv2"), config("aimv2", class_names=["cat", "dog"])).eval()
    with torch.no_grad():
        close(
            model(**images_of("aimv2")).logits, own_logits("aimv2", folders, TEXTS[:1] + ["a photo of a dog."]), "aimv2"
        )


def test_names_are_read_as_behind_the_context(folders, config):
    """SigLIP 2's tokenizer has other tokens behind a space."""
    _, tokenizer = folders["siglip.2"]
    model = get_peft_model(make("siglip.2"), config("siglip.2"))
    [ids, *_] = model.prompt_layer.prompt.sequences(NAMES).ids
    assert list(ids[4:]) == tokenizer("a photo of a cat.")["input_ids"][4:]
    assert list(ids[4:]) != tokenizer("cat.")["input_ids"]


def test_a_tower_that_pads_otherwise_than_its_tokenizer(folders, config):
    """RoBERTa counts positions from its own padding's id on, 1 here; BERT's tokenizer pads with 0."""
    settings = {**ROBERTA, "model_type": "roberta"}
    family = replace(SUPPORTED["vision-text-dual-encoder"], text=settings)
    key, base = family.key, family.make_model().double()
    expected = family.own_logits(base, folders[key][1], images_of(key), TEXTS)
    close(get_peft_model(base, config(key)).eval()(**images_of(key)).logits, expected, key)


def test_a_text_tower_of_another_kind_is_refused(config):
    settings = {**TEXT, "model_type": "clip_text_model"}
    base = replace(SUPPORTED["vision-text-dual-encoder"], text=settings).make_model()
    kind, names = type(base), list(base.state_dict())
    with pytest.raises(ValueError, match="the text tower CLIPTextModel, which has no `text_model"):
        get_peft_model(base, config("vision-text-dual-encoder"))
    assert type(base) is kind
    assert list(base.state_dict()) == names


def test_two_threads_share_a_model(config):
    """One encodes its prompts while the other is in the middle of its own, as in a server."""
    model = get_peft_model(make("siglip"), config("siglip", "cocoop")).double().eval()
    draw_prompt(model)
    first, second = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = [model(image_embeds=each).logits for each in (first, second)]
    logits = []

    def interrupt(*_):
        interruption.remove()
        thread = threading.Thread(target=lambda: logits.append(model(image_embeds=second).logits.detach()))
        thread.start()
        thread.join()

    interruption = model.get_base_model().text_model.register_forward_pre_hook(interrupt)
    with torch.no_grad():
        logits.insert(0, model(image_embeds=first).logits)
    assert len(logits) == 2
    for actual, each in zip(logits, expected, strict=True):
        close(actual, each, "siglip")


@pytest.mark.parametrize("key", ["chinese_clip", "groupvit", "align"])
def test_a_model_that_is_in_training_mode_already(key, config):
    """Nobody calls `train` after the prompt is put in: its frozen towers drop and count nothing all the same."""
    base = make(key).train()
    statistics = {name: value.clone() for name, value in base.named_buffers()}
    model = get_peft_model(base, config(key))
    logits = model(**images_of(key)).logits
    assert model.get_base_model().training
    assert model.prompt_layer.prompt.training
    assert all(torch.equal(value, statistics[name]) for name, value in model.unload().named_buffers())
    close(get_peft_model(make(key).eval(), config(key))(**images_of(key)).logits, logits, key)


@pytest.mark.parametrize("key", ["chinese_clip", "groupvit"])
def test_the_teacher_drops_nothing_beside_a_lora(key, config):
    """The LoRA is trained, and with it its tower; the teacher has no dropout, and frozen batch norms count nothing."""
    model = get_peft_model(make(key), config(key, "kgcoop")).double().eval()
    images = images_of(key)
    with torch.no_grad(), model.disable_adapter():
        teacher = model(**images)
    attention = r".*(text|vision)_model.*\.(query|q_proj)"
    model.add_adapter("lora", LoraConfig(target_modules=attention, lora_dropout=0.5, init_lora_weights=False))
    model.double().train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    steps = []
    model.prompt_layer.prompt.extra_losses = lambda step: steps.append(step) or {}
    training = {name for name, module in model.named_modules() if module.training}
    model(**images, labels=torch.tensor([0, 1, 2]))
    close(steps[0].zero_shot_text_embeds(), teacher.text_embeds, key)
    close(steps[0].zero_shot_image_embeds(), teacher.image_embeds, key)
    assert any("lora_dropout" in name for name in training)
    assert {name for name, module in model.named_modules() if module.training} == training
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def test_images_are_refused_what_the_model_does_not_take(config):
    model = get_peft_model(make("clip"), config("clip"))
    with pytest.raises(ValueError, match="Images of CLIPModel have no `spatial_shapes`"):
        model(**images_of("clip"), spatial_shapes=torch.ones(3, 2))


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused(name):
    base = make_refused(name)
    with pytest.raises(ValueError, match=rf"got {name} .*Supported are CLIPModel \(clip\), .*SiglipModel \(siglip\)"):
        get_peft_model(base, CoOpConfig(n_ctx=4))


def save_with_widths(model, folder):
    """As released checkpoints are, whose towers' configs have the projection's width, too."""
    if hasattr(model.config, "projection_dim"):
        model.config.text_config.projection_dim = model.config.vision_config.projection_dim = 40
    model.save_pretrained(folder)


@pytest.mark.parametrize("key", ["clip", "siglip"])
def test_two_towers_loaded_separately(key, folders, config, tmp_path):
    own = make(key).float()
    save_with_widths(own, tmp_path)
    text_class, vision_class = {
        "clip": (CLIPTextModelWithProjection, CLIPVisionModelWithProjection),
        "siglip": (SiglipTextModel, SiglipVisionModel),
    }[key]
    text, vision = text_class.from_pretrained(tmp_path).double(), vision_class.from_pretrained(tmp_path).double()
    more = {"logit_bias": own.logit_bias.item()} if key == "siglip" else {}
    joined = join_towers(text, vision, logit_scale=own.logit_scale.double().exp().item(), **more)
    assert type(joined) is type(own)
    model = get_peft_model(joined, config(key)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**images_of(key)).logits, own_logits(key, folders), atol=1e-5, rtol=0)


def test_parts_of_a_plain_tower_change_nothing(config, monkeypatch):
    model = get_peft_model(make("chinese_clip"), config("chinese_clip", "cocoop")).double().eval()
    with torch.no_grad():
        expected = model(**images_of("chinese_clip")).logits
        monkeypatch.setattr("peft_coop.towers.plain_tower.MAX_POSITIONS", 30)
        assert text_memory.MAX_POSITIONS > 30
        torch.testing.assert_close(model(**images_of("chinese_clip")).logits, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("views", [None, 2])
@in_every_family
def test_pipelines_and_features_of_pictures(key, config, views, tmp_path, monkeypatch):
    """transformers' pipeline on the wrapped model, and the features that are computed once, give the same answers."""
    family = SUPPORTED[key]
    if family.naflex and views:
        pytest.skip("images of any shape are not augmented")
    if family.naflex:
        processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=9)
    else:
        processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    model = get_peft_model(make(key).float(), config(key, "cocoop")).eval()
    pictures = [Image.new("RGB", (20, 28), colour) for colour in ("red", "lime")]
    if views is None:
        pipe = transformers.pipeline("image-classification", model=model, image_processor=processor, device="cpu")
        with torch.no_grad():
            expected = model(**processor(pictures, return_tensors="pt")).logits.softmax(-1)
        for answers, row in zip(pipe(pictures), expected, strict=True):
            assert {each["label"]: each["score"] for each in answers} == pytest.approx(
                dict(zip(NAMES, row.tolist(), strict=True)), abs=1e-5
            )
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}),
    )
    embeds = with_image_embeds(rows, model, processor, views=views)
    assert len(embeds) == 2 * (views or 1)
    if views is None:
        with torch.no_grad():
            logits = model(image_embeds=torch.tensor(embeds["image_embeds"][:])).logits
        torch.testing.assert_close(logits.softmax(-1), expected, atol=1e-5, rtol=0)


def test_one_batch_for_two_adapters_takes_images_of_any_shape(config):
    model = get_peft_model(make("siglip2"), config("siglip2")).eval()
    model.add_adapter("other", config("siglip2", ctx_init="the big picture of"))
    images = images_of("siglip2")
    with torch.no_grad():
        mixed = model(**images, adapter_names=["default", "other", "default"]).logits
        for index, name in enumerate(("default", "other", "default")):
            model.set_adapter(name)
            torch.testing.assert_close(mixed[index], model(**images).logits[index], atol=1e-9, rtol=0)


def test_words_that_the_tokenizer_does_not_know_are_told(config):
    with pytest.warns(UserWarning, match="BertTokenizer.* does not know words of these class names: 'собака'"):
        get_peft_model(make("chinese_clip"), config("chinese_clip", class_names=["cat", "собака"]))


def test_images_of_any_shape_need_their_shapes(config):
    model = get_peft_model(make("siglip2"), config("siglip2"))
    images = images_of("siglip2")
    with pytest.raises(ValueError, match="Images of Siglip2Model need `spatial_shapes` beside `pixel_values`"):
        model(pixel_values=images["pixel_values"], pixel_attention_mask=images["pixel_attention_mask"])
