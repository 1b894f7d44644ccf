"""The nearest words of learned context vectors, against a slow loop over the vocabulary."""

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, get_peft_model
from PIL import Image

from peft_coop import CoOpConfig, CSPConfig, DenseCLIPConfig, VideoPromptConfig
from peft_coop.evaluation import interpretation
from peft_coop.evaluation.interpretation import ContextWords, NearWord, nearest_rows, nearest_words, readable
from peft_coop.evaluation.word_tables import drawable, format_words, plot_words

ANIMALS = ["cat", "great white shark", "cat"]


@pytest.fixture
def make_model(tokenizer_path):
    """Make a model whose vectors lie between words."""

    def make(**settings):
        config = {"n_ctx": 3, "class_names": ANIMALS[:2], "tokenizer_name_or_path": tokenizer_path, **settings}
        model = get_peft_model(make_clip(), CoOpConfig(**config))
        if "ctx_init" not in settings:
            torch.manual_seed(3)
            model.prompt_layer.learned_prompts["default"].ctx.data.normal_(std=0.05)
        return model

    return make


@pytest.fixture(scope="session")
def whole_words(tokenizer):
    return {token_id for token, token_id in tokenizer.get_vocab().items() if token.endswith("</w>")}


def slowly(vector, table, allowed, top_k):
    """Distances and ids of the nearest by a loop over the vocabulary, in double precision."""
    distances = (table - vector).pow(2).sum(dim=1).sqrt().tolist()
    return sorted((distances[token_id], token_id) for token_id in allowed)[:top_k]


@pytest.mark.parametrize("only_words", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"class_specific_context": True}, {"meta_net": True}], ids=["unified", "class-specific", "cocoop"]
)
def test_against_a_loop(make_model, tokenizer, whole_words, settings, only_words):
    model = make_model(n_ctx=2, **settings)
    layer = model.prompt_layer
    table = layer.token_embedding.weight.detach().double()
    vectors = layer.learned_prompts["default"].ctx.detach().double().flatten(0, -2)
    allowed = sorted(whole_words) if only_words else range(49406)
    found = nearest_words(model, top_k=4, whole_words=only_words)
    assert len(found) == len(vectors)
    for row, (each, vector) in enumerate(zip(found, vectors, strict=True)):
        assert each.index == row % 2
        assert each.class_name == (ANIMALS[row // 2] if "class_specific_context" in settings else None)
        expected = slowly(vector, table, allowed, 4)
        assert [word.token_id for word in each.words] == [token_id for _, token_id in expected]
        assert [word.distance for word in each.words] == pytest.approx([distance for distance, _ in expected], rel=1e-5)
        assert [word.is_whole_word for word in each.words] == [id_ in whole_words for _, id_ in expected]


@pytest.mark.parametrize("class_specific", [False, True])
def test_words_find_themselves(make_model, class_specific):
    model = make_model(n_ctx=None, ctx_init="a photo of a", class_specific_context=class_specific)
    found = nearest_words(model, top_k=2)
    assert [each.words[0].text for each in found] == ["a", "photo", "of", "a"] * (2 if class_specific else 1)
    assert [each.words[0].distance for each in found] == [0.0] * len(found)
    assert all(each.words[0].is_whole_word and each.words[1].distance > 0 for each in found)


def test_half_precision(make_model):
    model = make_model(n_ctx=None, ctx_init="a photo of a").half()
    assert [each.words[0].text for each in nearest_words(model)] == ["a", "photo", "of", "a"]


def test_adapter_in_use(make_model, tokenizer_path):
    model = make_model()
    words = CoOpConfig(ctx_init="golden retriever", class_names=["dog"], tokenizer_name_or_path=tokenizer_path)
    model.add_adapter("words", words)
    model.set_adapter("words")
    assert [each.words[0].text for each in nearest_words(model)] == ["golden", "retriever"]


def test_special_tokens_are_no_words(make_model):
    model = make_model()
    layer = model.prompt_layer
    layer.learned_prompts["default"].ctx.data[:2] = layer.token_embedding.weight.data[49406:]
    assert all(word.token_id < 49406 for each in nearest_words(model) for word in each.words)


def test_chosen_classes(make_model):
    with pytest.warns(UserWarning, match="more than once"):
        model = make_model(class_specific_context=True, class_names=ANIMALS)
    everything = nearest_words(model)
    assert nearest_words(model, class_names=["great white shark"]) == everything[3:6]
    assert nearest_words(model, class_names=["cat"]) == everything[:3] + everything[6:]
    assert everything[0] != everything[6]
    with pytest.raises(ValueError, match="'dog' is not a class of adapter 'default'; its classes are cat, great"):
        nearest_words(model, class_names=["cat", "dog"])


def test_a_unified_context_has_no_classes(make_model):
    with pytest.raises(ValueError, match=r"one context for all classes: leave out `class_names`, got \['cat'\]"):
        nearest_words(make_model(), class_names=["cat"])


@pytest.mark.parametrize("top_k", [0, -1, True, 2.0, 49407])
def test_top_k(make_model, top_k):
    with pytest.raises(ValueError, match="`top_k` must be a whole number from 1 to 49406, the words there are"):
        nearest_words(make_model(), top_k)


def test_models_without_a_prompt(make_model):
    with pytest.raises(TypeError, match="a learned prompt is needed; got CLIPModel"):
        nearest_words(make_clip())
    lora = get_peft_model(make_clip(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(TypeError, match="a learned prompt is needed; got PeftModel"):
        nearest_words(lora)
    model = make_model()
    model.delete_adapter("default")
    with pytest.raises(ValueError, match="No adapter is active"):
        nearest_words(model)


def test_parts_are_put_together(monkeypatch):
    """Vectors close to the rows, where matrix products lose their digits, with the table read in many parts."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(500, 16, generator=generator) * 0.01 + 10
    vectors = table[:70] + torch.randn(70, 16, generator=generator) * 1e-3
    whole = torch.cdist(vectors.double(), table.double())
    monkeypatch.setattr(interpretation, "DISTANCES_AT_ONCE", 500 * 8)
    distances, rows = nearest_rows(vectors, table, 3)
    torch.testing.assert_close(distances.double(), whole.sort(dim=1).values[:, :3], rtol=1e-3, atol=0)
    assert torch.equal(rows[:, 0], torch.arange(70))


def test_equally_near_rows_in_their_order():
    table = torch.ones(9, 2)
    distances, rows = nearest_rows(torch.zeros(1, 2), table, 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert distances.tolist() == [[pytest.approx(2**0.5)] * 4]


@pytest.mark.parametrize(
    "token, text",
    [
        ("photo</w>", "photo"),
        ("icelan", "icelan"),
        ("cafÃ©</w>", "café"),
        ("ð", "<0xF0>"),
        ("ðŁĺĤ</w>", "😂"),
        ("ŁãģĦ", "<0x9F>い"),
        ("Ċ", "<U+000A>"),
        ("!</w>", "!"),
    ],
)
def test_readable(tokenizer, token, text):
    assert token in tokenizer.get_vocab() or token == "ŁãģĦ"
    assert readable(token, tokenizer) == text


WORDS = [
    ContextWords(None, 0, [NearWord("photo", 1, 0.5, True), NearWord("ph|o", 2, 1.25, False)]),
    ContextWords(None, 1, [NearWord("い", 3, 0.75, False), NearWord("*", 4, 10.0, True)]),
]


def test_plain_table():
    assert format_words(WORDS).splitlines() == [
        "   1  photo* 0.5000  ph|o 1.2500",
        "   2  い 0.7500      ** 10.0000",
        "",
        "* a whole word; the others are pieces of words",
    ]


def test_plain_table_of_classes():
    of_classes = [ContextWords(name, each.index, each.words) for name in ("cat", "dog") for each in WORDS]
    lines = format_words(of_classes).splitlines()
    assert [lines[0], lines[4]] == ["cat", "dog"]
    assert lines[1:3] == lines[5:7] == format_words(WORDS).splitlines()[:2]


def test_markdown_table():
    assert format_words(WORDS, markdown=True).splitlines() == [
        "| vector | word 1 | word 2 |",
        "| --- | --- | --- |",
        r"| 1 | **photo** 0.5000 | ph\|o 1.2500 |",
        r"| 2 | い 0.7500 | **\*** 10.0000 |",
    ]
    of_class = [ContextWords("cat_1", 0, WORDS[0].words)]
    assert format_words(of_class, markdown=True).splitlines()[0::2] == [
        "| class | vector | word 1 | word 2 |",
        r"| cat_1 | 1 | **photo** 0.5000 | ph\|o 1.2500 |",
    ]


def test_plot(make_model, tmp_path):
    unified = nearest_words(make_model(n_ctx=4), top_k=3)
    plot_words(unified, tmp_path / "unified.png")
    of_classes = nearest_words(make_model(n_ctx=4, class_specific_context=True, class_names=["cat", "a$b$", "dog"]))
    plot_words(of_classes, tmp_path / "classes.png")
    sizes = {}
    for name in ("unified", "classes"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
            assert len(image.convert("L").getcolors()) > 50
    assert sizes["classes"][0] > 1.5 * sizes["unified"][0]
    assert sizes["classes"][1] > 1.5 * sizes["unified"][1]


def test_a_plot_as_pdf_has_fonts_that_publishers_take(make_model, tmp_path):
    plot_words(nearest_words(make_model(n_ctx=2), top_k=2), tmp_path / "words.pdf")
    content = (tmp_path / "words.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    assert b"/CreationDate" not in content


def test_what_cannot_be_drawn(tmp_path):
    many = [ContextWords(f"class {index}", 0, WORDS[0].words) for index in range(7)]
    for words in (many, []):
        with pytest.raises(ValueError, match=f"room for 1 to 6 classes, got {len(words)}: choose some"):
            plot_words(words, tmp_path / "words.png")


@pytest.mark.parametrize("text, label", [("photo", "photo"), ("💵", "<U+1F4B5>"), ("a" * 19, "a" * 17 + "…")])
def test_drawable(text, label):
    assert drawable(text) == label


PAIRS = [["old", "car"], ["wet", "dog"], ["old", "dog"]]


@pytest.fixture
def csp(tokenizer_path):
    words = {"attributes": ["old", "unused", "wet"], "objects": ["car", "dog"], "train_pairs": PAIRS}
    return get_peft_model(make_clip(), CSPConfig(**words, tokenizer_name_or_path=tokenizer_path))


def test_vectors_that_stand_for_words_are_named_by_them(csp):
    assert [(each.class_name, each.stands_for) for each in nearest_words(csp)] == [
        ("attribute", "old"),
        ("attribute", "unused"),
        ("attribute", "wet"),
        ("object", "car"),
        ("object", "dog"),
    ]
    layer = csp.prompt_layer
    table = layer.learned_prompts["default"].table.data
    table[:] = layer.token_embedding.weight.data[300:305]
    found = nearest_words(csp, class_names=["dog", "old", "unused"])
    assert [each.stands_for for each in found] == ["dog", "old", "unused"]
    assert [each.words[0].token_id for each in found[:2]] == [304, 300]
    assert found[2].words[0].token_id != 301  # no training pair has it: it is read as it started
    with pytest.raises(ValueError, match="'cat' is not a word of adapter 'default'; its words are old, unused, wet, "):
        nearest_words(csp, class_names=["cat"])


def test_tables_of_words_that_vectors_stand_for(csp, tmp_path):
    words = nearest_words(csp, top_k=1)
    lines = format_words(words).splitlines()
    assert [lines[0], lines[5]] == ["attribute", "object"]
    assert [line.split()[0] for line in (*lines[1:4], *lines[6:8])] == ["old", "unused", "wet", "car", "dog"]
    assert lines[1].startswith("   old  ")
    assert format_words(words, markdown=True).splitlines()[2].startswith("| attribute | old | ")
    plot_words(words, tmp_path / "words.png")
    with Image.open(tmp_path / "words.png") as image:
        assert len(image.convert("L").getcolors()) > 50


@pytest.fixture
def video(tokenizer_path):
    def make(**fields):
        settings = {"num_frames": 2, "temporal_layers": 1, "n_prefix": 2, "n_suffix": 3} | fields
        names = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path}
        return get_peft_model(make_clip(), VideoPromptConfig(**names, **settings))

    return make


def test_vectors_on_both_sides_of_a_name_are_counted_on_each(video, tmp_path):
    model = video()
    table = model.prompt_layer.prompt.ctx.data
    table[:] = model.prompt_layer.token_embedding.weight.data[300:305]
    found = nearest_words(model, top_k=1)
    assert [(each.place, each.index, each.words[0].token_id) for each in found] == [
        ("before the name", 0, 300),
        ("before the name", 1, 301),
        ("behind the name", 0, 302),
        ("behind the name", 1, 303),
        ("behind the name", 2, 304),
    ]
    lines = format_words(found).splitlines()
    assert [lines[0], lines[4]] == ["before the name", "behind the name"]
    assert [line.split()[0] for line in (*lines[1:3], *lines[5:8])] == ["1", "2", "1", "2", "3"]
    assert format_words(found, markdown=True).splitlines()[0].startswith("| place | vector |")
    plot_words(found, tmp_path / "words.png")
    with Image.open(tmp_path / "words.png") as image:
        assert len(image.convert("L").getcolors()) > 50
    with pytest.raises(ValueError, match="has one context for all classes"):
        nearest_words(model, class_names=["cat"])
    absolute = nearest_words(video(suffix_indexing="absolute"))
    assert [(each.place, each.index) for each in absolute][:3] == [
        ("before the name", 1),
        ("before the name", 2),
        ("behind the name", 4),
    ]


def test_what_has_learned_no_words_says_so(video):
    with pytest.raises(
        ValueError, match="no vectors among words: what it learned is in the vision tower, or behind it"
    ):
        nearest_words(video(n_prefix=0, n_suffix=0))


def test_chosen_words_of_two_kinds_have_two_titles(csp):
    lines = format_words(nearest_words(csp, class_names=["dog", "wet"])).splitlines()
    assert [lines[0], lines[3]] == ["object", "attribute"]


def test_vectors_of_pixels(tokenizer_path):
    names = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path}
    model = get_peft_model(make_clip(), DenseCLIPConfig(head="none", n_ctx=3, max_class_tokens=4, **names))
    prompt = model.prompt_layer.prompt
    prompt.ctx.data[:] = model.prompt_layer.token_embedding.weight.data[300:303]
    found = nearest_words(model, top_k=1)
    assert [(each.title, each.index, each.words[0].token_id) for each in found] == [
        (None, index, 300 + index) for index in range(3)
    ]
