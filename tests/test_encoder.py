"""The tree's gradients, parts and dtypes, against prompts that are put together and padded one by one.

What claims equality is computed in float64, where rounding is far below 1e-9 and a mistake is not.
"""

from itertools import product

import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from test_prompts import NAMES, build, padded_feature
from transformers.activations import QuickGELUActivation

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.towers import text_tower, tree_tower
from peft_coop.towers.quick_gelu import LeanQuickGELU

# Position, class-specific, conditional. What stands in the trunk, whether there are nodes before it that need no graph,
# and whether each image has a trunk of its own differ between these.
END, END_PER_IMAGE, OWN_PER_IMAGE = ("end", False, False), ("end", False, True), ("end", True, True)
MIDDLE, FRONT_PER_IMAGE, FRONT_OWN_PER_IMAGE = ("middle", False, False), ("front", False, True), ("front", True, True)


def over(*settings):
    return pytest.mark.parametrize(("position", "class_specific", "conditional"), settings)


@pytest.fixture
def tower():
    model = make_clip().double().requires_grad_(False)
    text_tower(model).install()
    return model


def make_vectors(class_specific, conditional):
    shape = (4 * len(NAMES) if class_specific else 4, 24)
    torch.manual_seed(3)
    shape = (3, *shape) if conditional else shape
    return torch.randn(shape, dtype=torch.float64).mul_(0.1).requires_grad_()


def gradient(features, vectors):
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(4))
    return torch.autograd.grad((features * weights).sum(), vectors)[0]


def count_passes(monkeypatch):
    """A list that grows by one for every pass over some prompts."""
    calls = []
    run = tree_tower.TreeTower._start
    monkeypatch.setattr(tree_tower.TreeTower, "_start", lambda *given, **more: calls.append(1) or run(*given, **more))
    return calls


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@over(*product(["end", "middle", "front"], [False, True], [False, True]))
def test_gradients_equal_a_padded_loop(tower, tokenizer, tokenizer_path, position, class_specific, conditional):
    vectors = make_vectors(class_specific, conditional)
    slow = [
        torch.cat(
            [
                padded_feature(tower, tokenizer, name, table, index, position, class_specific)
                for index, name in enumerate(NAMES)
            ]
        )
        for table in (vectors if conditional else vectors[None])
    ]
    expected = gradient(torch.stack(slow) if conditional else slow[0], vectors)
    prompts = build(tokenizer_path, position=position, class_specific=class_specific).learned
    assert relative(gradient(text_tower(tower).encode(prompts, vectors), vectors), expected) < 1e-9


@over(END_PER_IMAGE, MIDDLE, FRONT_OWN_PER_IMAGE)
def test_eager_attention_has_the_same_gradients(tower, tokenizer_path, position, class_specific, conditional):
    """But for its softmax, which Hugging Face computes in float32."""
    vectors = make_vectors(class_specific, conditional)
    prompts = build(tokenizer_path, position=position, class_specific=class_specific).learned
    expected = gradient(text_tower(tower).encode(prompts, vectors), vectors)
    tower.set_attn_implementation("eager")
    assert relative(gradient(text_tower(tower).encode(prompts, vectors), vectors), expected) < 1e-5


@over(END_PER_IMAGE, OWN_PER_IMAGE, MIDDLE, FRONT_PER_IMAGE)
def test_parts_change_nothing(tower, tokenizer_path, position, class_specific, conditional):
    """With a memory of one byte, every row is computed again by itself."""
    vectors = make_vectors(class_specific, conditional)
    prompts = build(tokenizer_path, position=position, class_specific=class_specific).learned
    results = []
    for memory in (None, 1):
        features = text_tower(tower).encode(prompts, vectors, memory)
        results.append((features.detach(), gradient(features, vectors)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=0)
    assert relative(results[1][1], results[0][1]) < 1e-9


@over(END, MIDDLE, FRONT_OWN_PER_IMAGE)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_differs_by_its_rounding(
    tower, tokenizer_path, position, class_specific, conditional, dtype, bound
):
    vectors = make_vectors(class_specific, conditional)
    prompts = build(tokenizer_path, position=position, class_specific=class_specific).learned
    expected = text_tower(tower).encode(prompts, vectors)
    features = text_tower(tower.to(dtype)).encode(prompts, vectors)
    assert features.dtype == dtype
    assert relative(features.double(), expected) < bound


@pytest.mark.parametrize(("position", "needs_graph"), [("end", [True]), ("front", [False, True])])
def test_no_graph_where_no_gradient_passes(tower, tokenizer_path, position, needs_graph):
    """Names before the context are computed without a graph; a shared context and what follows it are one pass."""
    prompts = build(tokenizer_path, position=position).learned
    needs = []
    tower.text_model.encoder.layers[-1].register_forward_hook(lambda *given: needs.append(given[-1].requires_grad))
    text_tower(tower).encode(prompts, make_vectors(False, False))
    assert needs == needs_graph


def test_steps_of_a_training_share_the_names_before_the_context(tokenizer_path, monkeypatch):
    config = CoOpConfig(n_ctx=4, class_names=NAMES, class_token_position="front", tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config).train()
    calls = count_passes(monkeypatch)
    for _ in range(3):
        model(image_embeds=torch.randn(2, 40), labels=torch.tensor([0, 1])).loss.backward()
    assert len(calls) == 2 + 1 + 1


def test_memory_can_be_set(tokenizer_path):
    config = CoOpConfig(n_ctx=4, class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config).train()
    calls = []
    layer = model.get_base_model().text_model.encoder.layers[0]
    layer.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for gigabytes in (None, 1e-9, None):
        model.set_prompt_memory(gigabytes)
        calls.clear()
        model(image_embeds=torch.randn(2, 40), labels=torch.tensor([0, 1])).loss.backward()
        counts.append(len(calls))
    assert counts[1] > counts[0] == counts[2]
    with pytest.raises(ValueError, match="must be a number of GiB above 0, got 0"):
        model.set_prompt_memory(0)


@pytest.mark.parametrize("method", [CoOpConfig, CoCoOpConfig])
def test_unload_gives_the_layers_back(tokenizer_path, method):
    clip = make_clip()
    config = clip.text_model.config
    model = get_peft_model(clip, method(class_names=NAMES, tokenizer_name_or_path=tokenizer_path, meta_net_reduction=4))
    layer = clip.text_model.encoder.layers[0]
    assert layer.self_attn.config is not config
    assert not isinstance(layer.mlp.activation_fn, QuickGELUActivation)
    model.unload()
    assert layer.self_attn.config is config
    assert isinstance(layer.mlp.activation_fn, QuickGELUActivation)


def test_lean_activation_equals_the_original():
    given = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    original = QuickGELUActivation()
    outputs = original(given), LeanQuickGELU(original)(given)
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-9, rtol=0)
    slopes = [torch.autograd.grad(output.sum(), given)[0] for output in outputs]
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("change", ["none", "weights", "dtype", "trained", "inference"])
def test_names_before_the_context_are_computed_once_for_each_state_of_the_tower(
    tower, tokenizer_path, change, monkeypatch
):
    prompts = build(tokenizer_path, position="front").learned
    vectors = make_vectors(False, False)
    calls = count_passes(monkeypatch)

    def encode():
        calls.clear()
        features = text_tower(tower).encode(prompts, vectors)
        return features.detach(), len(calls)

    if change == "inference":
        with torch.inference_mode():
            text_tower(tower).encode(prompts, vectors)
        assert gradient(text_tower(tower).encode(prompts, vectors), vectors).abs().sum() > 0
        return
    first, passes = encode()
    assert passes == 2
    if change == "weights":
        with torch.no_grad():
            tower.text_model.encoder.layers[0].self_attn.k_proj.weight.mul_(3)
    elif change == "dtype":
        tower.to(torch.bfloat16)
    elif change == "trained":
        tower.text_model.requires_grad_(True)
    again, passes = encode()
    assert passes == (1 if change == "none" else 2)
    fresh = text_tower(tower).encode(build(tokenizer_path, position="front").learned, vectors)
    torch.testing.assert_close(again, fresh.detach(), rtol=0, atol=0)
    if change in ("none", "trained"):
        torch.testing.assert_close(again, first, rtol=0, atol=1e-9)
    else:
        assert (again - first).abs().max() > 1e-3
