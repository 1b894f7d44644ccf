"""Figures of made-up runs: what is drawn where. How they look is for the eye."""

import pytest
from PIL import Image
from test_reports import base_to_new, run

from peft_coop.evaluation.reports.figures import (
    ablation_figure,
    base_to_new_figure,
    few_shot_figure,
    plot_ablation,
    plot_base_to_new,
    plot_few_shot,
    plot_transfer,
    transfer_figure,
)
from peft_coop.evaluation.reports.grouped_runs import make_lines
from peft_coop.evaluation.reports.styles import GREYS, line_styles, method_colors

COLORS = method_colors()


def few_shot_runs(datasets=("digits",), methods=("coop", "cocoop"), shots=(1, 2, 4, 8, 16), seeds=(1, 2)):
    learned = [
        run(method=method, shots=number, seed=seed, data=data, test=0.5 + number / 100 + seed / 50 + place / 10)
        for data in datasets
        for place, method in enumerate(methods)
        for number in shots
        for seed in seeds
    ]
    return learned + [run(method="zero-shot", shots=0, seed=0, data=data, test=0.45) for data in datasets]


def base_to_new_runs(datasets=("shapes",), seeds=(1, 2)):
    learned = [
        base_to_new("coop", 0.8 + seed / 100, 0.4 + seed / 100, data=data, seed=seed)
        for data in datasets
        for seed in seeds
    ]
    probe = [base_to_new("linear-probe", 0.9, None, data=data) for data in datasets]
    return learned + probe + [base_to_new("zero-shot", 0.6, 0.3, seed=0, data=data) for data in datasets]


def transfer_runs(protocol="domain", seeds=(1, 2), methods=("coop", "cocoop")):
    learned = [
        run(protocol, method, seed=seed, data="a", a=0.9, b=0.5 + seed / 100, c=0.7 + seed / 100)
        for method in methods
        for seed in seeds
    ]
    return learned + [run(protocol, "zero-shot", 0, seed=0, data="a", a=0.8, b=0.4, c=0.6)]


def ablation_runs(datasets=("digits",), lengths=(4, 16), seeds=(1, 2)):
    return [
        run("ablation", settings={"n_ctx": n_ctx}, data=data, seed=seed, test=0.5 + n_ctx / 100 + seed / 100)
        for data in datasets
        for n_ctx in lengths
        for seed in seeds
    ]


def touching(texts):
    """Pairs of drawn texts whose boxes overlap."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[i + 1 :] if one.overlaps(other)]


def font_sizes(figure):
    from matplotlib.text import Text

    return {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(axes):
    """Points by colour; dotted lines without markers left out."""
    return {
        line.get_color(): list(map(tuple, line.get_xydata().round(2)))
        for line in axes.lines
        if line.get_marker() != "None"
    }


def assert_nothing_is_cut_off(figure):
    """Titles, ticks and the legend lie within the figure; the legend lies below the panels."""
    figure.canvas.draw()
    for artist in (*figure.axes, figure.legends[0]):
        box = artist.get_tightbbox()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert figure.legends[0].get_window_extent().y1 <= lowest + 1


def test_one_dataset_is_one_panel():
    figure = few_shot_figure(few_shot_runs())
    assert titles(figure) == ["digits"]
    assert legend(figure) == ["zero-shot CLIP", "CoOp", "CoCoOp"]
    assert curves(figure.axes[0]) == {
        GREYS["zero-shot"]: [(0, 45)],
        COLORS["coop"]: [(1, 54), (2, 55), (4, 57), (8, 61), (16, 69)],
        COLORS["cocoop"]: [(1, 64), (2, 65), (4, 67), (8, 71), (16, 79)],
    }
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "4", "8", "16"]


def test_bands_are_a_standard_deviation():
    axes = few_shot_figure(few_shot_runs(methods=("coop",))).axes[0]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    spread = 100 * 0.02 / 2**0.5
    assert [heights.min(), heights.max()] == pytest.approx([54 - spread, 69 + spread])


def test_zero_shot_is_a_star_with_a_dotted_line():
    axes = few_shot_figure(few_shot_runs()).axes[0]
    star = next(line for line in axes.lines if line.get_marker() == "*")
    dotted = next(line for line in axes.lines if line.get_linestyle() == ":")
    assert star.get_color() == dotted.get_color() == GREYS["zero-shot"]
    assert set(dotted.get_ydata()) == {45}


def test_several_datasets_begin_with_their_average():
    runs = [*few_shot_runs(["a", "b"], ["coop"]), run(method="cocoop", data="a", test=0.9)]
    figure = few_shot_figure(runs)
    assert titles(figure) == ["average over 2 datasets", "a", "b"]
    assert [COLORS["cocoop"] in curves(axes) for axes in figure.axes] == [False, True, False]
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy (%)", "", ""]
    assert {axes.get_xlabel() for axes in figure.axes} == {"labelled images per class"}


def test_eleven_datasets_are_three_rows_of_four():
    figure = few_shot_figure(few_shot_runs([f"dataset {number}" for number in range(11)], seeds=(1,)))
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols, len(figure.axes)) == (3, 4, 12)
    assert [axes.get_xlabel() != "" for axes in figure.axes] == [False] * 8 + [True] * 4


@pytest.mark.parametrize("count", [1, 2, 4])
def test_nothing_is_cut_off(count):
    datasets = [f"an-organisation/a-rather-long-name-of-the-dataset-number-{number}" for number in range(count)]
    methods = ["linear-probe", "text-bias", "a method whose name is longer than any other that one could think of"]
    assert_nothing_is_cut_off(few_shot_figure(few_shot_runs(datasets, methods)))
    assert_nothing_is_cut_off(base_to_new_figure(base_to_new_runs(datasets)))


def test_the_legend_goes_row_by_row():
    keys = ["linear-probe", "text-bias", "text-transform", "image-encoder", "coop", "cocoop"]
    figure = few_shot_figure(few_shot_runs(methods=keys))
    figure.canvas.draw()
    places = {text.get_text(): text.get_window_extent() for text in figure.legends[0].get_texts()}
    ordered = sorted(places, key=lambda name: (-round(places[name].y0), places[name].x0))
    assert ordered == [
        "zero-shot CLIP",
        "image-encoder",
        "linear probe",
        "text-bias",
        "text-transform",
        "CoOp",
        "CoCoOp",
    ]


def test_bars():
    axes = base_to_new_figure(base_to_new_runs()).axes[0]
    bars = [(round(bar.get_height(), 2), bar.get_edgecolor(), bool(bar.get_hatch())) for bar in axes.patches]
    heights_and_hatches = [(height, hatched) for height, _, hatched in bars]
    assert heights_and_hatches == [(60, False), (30, True), (90, False), (81.5, False), (41.5, True)]
    assert [text.get_text() for text in axes.texts] == ["40.0", "55.0"]
    assert len(axes.containers) == 5 + 2  # CoOp's two bars have error bars
    assert axes.get_ylim()[0] == 0


def test_bars_have_a_legend_of_methods_and_parts():
    names = ["zero-shot CLIP", "linear probe", "CoOp"]
    parts = ["base classes", "new classes", "harmonic mean H (the number)"]
    assert sorted(legend(base_to_new_figure(base_to_new_runs()))) == sorted([*names, *parts])


def test_the_calibration_error_has_no_harmonic_mean():
    figure = base_to_new_figure(base_to_new_runs(), "ece")
    assert not figure.axes[0].texts
    assert not [text for text in legend(figure) if "harmonic" in text]
    assert figure.axes[0].get_ylabel() == "expected calibration error (%)"


def test_a_method_has_one_colour_in_both_figures():
    few, pairs = few_shot_figure(few_shot_runs()).axes[0], base_to_new_figure(base_to_new_runs()).axes[0]
    from matplotlib.colors import to_hex

    assert COLORS["coop"] in curves(few)
    assert to_hex(pairs.patches[-1].get_edgecolor()) == COLORS["coop"]


def test_no_two_methods_have_one_colour():
    assert sorted(COLORS.values()) == sorted(set(COLORS.values()))


def test_settings_of_one_method_have_colours_and_markers_of_their_own():
    runs = [run(settings={"n_ctx": n_ctx}) for n_ctx in (2, 4, 8, 16)]
    styles = line_styles(make_lines([*runs, run(method="cocoop"), run(method="new"), run(method="zero-shot", shots=0)]))
    assert len({style.color for style in styles.values()}) == len({style.marker for style in styles.values()}) == 7
    assert styles["CoOp, M = 2"].color == COLORS["coop"]
    assert styles["CoCoOp"].color == COLORS["cocoop"]
    assert styles["zero-shot CLIP"].marker == "*"


def test_one_number_of_shots_is_one_point():
    figure = few_shot_figure(few_shot_runs(shots=(16,)))
    assert curves(figure.axes[0])[COLORS["coop"]] == [(16, 69)]
    assert_nothing_is_cut_off(figure)


def test_one_seed_has_no_spread():
    few, pairs = few_shot_figure(few_shot_runs(seeds=(1,))), base_to_new_figure(base_to_new_runs(seeds=(1,)))
    bands = {tuple(map(tuple, band.get_paths()[0].vertices.round(2))) for band in few.axes[0].collections}
    points = [set(line) for line in curves(few.axes[0]).values()]
    assert bands
    assert all(set(band) in points for band in bands)  # nothing below or above the line
    assert len(pairs.axes[0].containers) == 5  # bars, and none of them has an error bar
    for figure in (few, pairs):
        assert_nothing_is_cut_off(figure)


def test_zero_shot_alone():
    figure = few_shot_figure(few_shot_runs(methods=()))
    assert legend(figure) == ["zero-shot CLIP"]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("name", [r"$\frac{", "$x_1$", r"a \$ b$_c$"])
def test_names_are_no_formulas(name):
    few = few_shot_figure(few_shot_runs([name], [name]))
    pairs = base_to_new_figure([base_to_new(name, 0.8, 0.4, data=name, model=name)])
    for figure in (few, pairs):
        assert_nothing_is_cut_off(figure)
        assert titles(figure) == [name]
        assert name in legend(figure)
        texts = [figure.axes[0].title, *figure.legends[0].get_texts()]
        assert [text._preprocess_math(text.get_text()) for text in texts] == [
            (each.get_text(), False) for each in texts
        ]


@pytest.mark.parametrize(
    "plot, runs, inches",
    [
        (plot_few_shot, few_shot_runs(), 3.25),
        (plot_base_to_new, base_to_new_runs(), 3.25),
        (plot_transfer, transfer_runs(), 6.75),
        (plot_ablation, ablation_runs(), 6.75),
    ],
)
def test_files(plot, runs, inches, tmp_path):
    plot(runs, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width == 300 * inches
        assert picture.getextrema()[0] != (255, 255)
    plot(runs, tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    assert b"/CreationDate" not in content


@pytest.mark.parametrize("panels, methods", [(1, 3), (1, 20), (3, 9), (4, 12)])
def test_numbers_above_bars_never_touch(panels, methods):
    datasets = [f"dataset {number}" for number in range(panels)]
    runs = [base_to_new(f"method {n}", 0.9, 0.8, data=data) for n in range(methods) for data in datasets]
    figure = base_to_new_figure(runs)
    figure.canvas.draw()
    for axes in figure.axes:
        assert len(axes.texts) == methods
        assert not touching(axes.texts)
        assert max(text.get_window_extent().y1 for text in axes.texts) <= axes.get_window_extent().y1 + 1
        assert axes.get_yticks().max() <= 100


def test_numbers_lie_flat_where_there_is_room_for_it():
    few = base_to_new_figure([base_to_new(f"method {number}", 0.9, 0.8) for number in range(3)])
    assert {text.get_rotation() for text in few.axes[0].texts} == {0}
    many = base_to_new_figure([base_to_new(f"method {number}", 0.9, 0.8) for number in range(20)])
    assert {text.get_rotation() for text in many.axes[0].texts} == {90}


def test_ticks_that_would_touch_are_left_out():
    figure = few_shot_figure(few_shot_runs(["a", "b"], shots=(1, 2, 4, 8, 16, 500)))
    figure.canvas.draw()
    for axes in figure.axes:
        assert not touching(axes.get_xticklabels())
        names = [tick.get_text() for tick in axes.get_xticklabels()]
        assert names[-1] == "500"
        assert names.count("") >= 3
        assert list(axes.get_xticks()) == [0, 1, 2, 4, 8, 16, 500]


@pytest.mark.parametrize(
    "draw, runs, inches",
    [
        (few_shot_figure, few_shot_runs(), 3.25),
        (base_to_new_figure, base_to_new_runs(), 3.25),
        (few_shot_figure, few_shot_runs(["a", "b", "c"], seeds=(1,)), 6.75),
        (base_to_new_figure, base_to_new_runs(["a", "b"]), 6.75),
        (transfer_figure, transfer_runs(), 6.75),
        (ablation_figure, ablation_runs(), 6.75),
    ],
)
def test_figures_have_the_width_and_the_fonts_of_a_paper(draw, runs, inches):
    figure = draw(runs)
    assert figure.get_figwidth() == inches
    assert min(font_sizes(figure)) >= 6
    assert max(font_sizes(figure)) <= 8


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain"])
def test_transfer_has_a_panel_for_source_targets_and_their_average(protocol):
    figure = transfer_figure(transfer_runs(protocol))
    assert titles(figure) == ["average of targets", "a (source)", "b", "c"]
    assert legend(figure) == ["zero-shot CLIP", "CoOp", "CoCoOp"]
    heights = [[round(bar.get_height(), 2) for bar in axes.patches] for axes in figure.axes]
    assert heights == [[50, 61.5, 61.5], [80, 90, 90], [40, 51.5, 51.5], [60, 71.5, 71.5]]
    assert [text.get_text() for text in figure.axes[2].texts] == ["40.0", "51.5", "51.5"]
    assert_nothing_is_cut_off(figure)


def test_a_transfer_figure_is_of_one_source():
    runs = [*transfer_runs(), run("domain", data="z", z=0.5, b=0.5)]
    with pytest.raises(ValueError, match=r"learned from one dataset, got \['a', 'z'\]"):
        transfer_figure(runs)
    with pytest.raises(ValueError, match="of one model, got no such run"):
        transfer_figure([])


def test_an_ablation_has_a_dot_for_each_setting_and_dataset():
    figure = ablation_figure([*ablation_runs(["digits", "shapes"]), run("ablation", "cocoop", data="shapes")])
    assert titles(figure) == ["digits", "shapes"]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["CoOp, M = 4", "CoOp, M = 16", "CoCoOp"]

    def dots(axes):
        return [(round(line.get_xdata()[0], 2), line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]

    assert [dots(axes) for axes in figure.axes] == [[(55.5, 0), (67.5, 1)], [(55.5, 0), (67.5, 1), (50, 2)]]
    figure.canvas.draw()
    assert not touching(figure.axes[0].get_yticklabels())
    assert min(tick.get_window_extent().x0 for tick in figure.axes[0].get_yticklabels()) >= -1
    with pytest.raises(ValueError, match="of the ablation runs, got no such run"):
        ablation_figure([run()])
    with pytest.raises(ValueError, match="`metric` must be one of"):
        ablation_figure(ablation_runs(), "f1")


@pytest.mark.parametrize("draw, protocol", [(few_shot_figure, "few-shot"), (base_to_new_figure, "base-to-new")])
def test_a_figure_is_of_one_model(draw, protocol):
    with pytest.raises(ValueError, match=f"of the {protocol} runs of one model, got no such run"):
        draw([run("ablation")])
    runs = [run(protocol, model=model, test=0.5, base=0.5) for model in ("a", "b")]
    with pytest.raises(ValueError, match=r"of one model, got \['a', 'b'\]"):
        draw(runs)
    with pytest.raises(ValueError, match="`metric` must be one of"):
        draw(runs[:1], "f1")
