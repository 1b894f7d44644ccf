"""Reports of made-up runs, against numbers computed by hand and tables written by hand."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peft_coop.evaluation.reports import Run, format_report, load_runs, write_report
from peft_coop.evaluation.reports.averages import Value, over_datasets, over_seeds
from peft_coop.evaluation.reports.formats import escape_latex, latex, markdown
from peft_coop.evaluation.reports.grouped_runs import make_lines
from peft_coop.evaluation.reports.paper_tables import PaperTable, make_paper_tables
from peft_coop.evaluation.reports.published import published, published_base_to_new
from peft_coop.evaluation.reports.table_rows import Table
from peft_coop.evaluation.reports.tables import make_tables
from peft_coop.evaluation.reports.trade_offs import composition_figure
from peft_coop.methods import METHODS

VIT_B16 = "openai/clip-vit-base-patch16"
NAMES = {"zero-shot": "zero-shot CLIP", "linear-probe": "linear probe", "coop": "CoOp", "cocoop": "CoCoOp"}


def measured(accuracy):
    return {"accuracy": accuracy, "macro_accuracy": accuracy / 2, "ece": 0.25, "num_examples": 8}


def run(protocol="few-shot", method="coop", shots=16, seed=1, data="digits", model="demo", settings=None, **splits):
    results = {name: measured(accuracy) for name, accuracy in (splits or {"test": 0.5}).items()}
    settings = {"num_shots": shots, **(settings or {})}
    return Run(protocol, data, model, method, NAMES.get(method, method), settings, seed, results)


def record(**changes):
    made = run()
    fields = ("protocol", "data", "model", "method", "method_name", "settings", "seed", "results")
    return {**{name: getattr(made, name) for name in fields}, "seconds": 1.5, "versions": {}, **changes}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def cells_of(table):
    """Labels to cells; values as means in percent."""
    return {
        label: [round(100 * cell.mean, 2) if isinstance(cell, Value) else cell for cell in cells]
        for label, cells in table.rows
    }


class TestLoading:
    def test_finds_results_at_any_depth_and_takes_files(self, tmp_path):
        write(tmp_path / "a" / "b" / "result.json", record(seed=1))
        write(tmp_path / "a" / "c" / "result.json", record(seed=2))
        write(tmp_path / "a" / "c" / "other.json", "no result")
        kept = write(tmp_path / "kept.json", record(seed=3))
        runs = load_runs([tmp_path / "a", str(kept)])
        assert [found.seed for found in runs] == [1, 2, 3]
        assert runs[0] == run(seed=1)
        assert runs[2].path == kept

    def test_how_many_images_were_used(self, tmp_path):
        write(tmp_path / "result.json", record(shots_used=[3, 24]))
        assert load_runs(tmp_path)[0].shots_used == (3, 24)
        write(tmp_path / "result.json", record())
        assert load_runs(tmp_path)[0].shots_used is None

    @pytest.mark.parametrize(("wrong", "message"), [([3], "fewest and the most"), ([3, "a"], "must be a whole number")])
    def test_a_wrong_number_of_images_is_refused(self, tmp_path, wrong, message):
        path = write(tmp_path / "kept.json", record(shots_used=wrong))
        with pytest.raises(ValueError, match=message):
            load_runs(path)

    def test_a_single_folder_needs_no_list(self, tmp_path):
        write(tmp_path / "result.json", record())
        assert load_runs(tmp_path) == load_runs(str(tmp_path)) == [run()]

    def test_a_file_in_two_of_the_folders_counts_once(self, tmp_path):
        write(tmp_path / "a" / "result.json", record())
        assert len(load_runs([tmp_path, tmp_path / "a"])) == 1

    def test_nothing_there(self, tmp_path):
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        with pytest.raises(ValueError, match=r"There is no result.json in .*one, .*two\."):
            load_runs(folders)
        with pytest.raises(ValueError, match=r"missing is neither a folder nor a file\."):
            load_runs([tmp_path / "missing"])
        with pytest.raises(ValueError, match="in no folder at all"):
            load_runs([])

    def test_a_run_that_is_there_twice_names_both_files(self, tmp_path):
        settings = {"n_ctx": None, "num_shots": 16}
        write(tmp_path / "a" / "result.json", record())
        write(tmp_path / "b" / "result.json", record(settings=settings))
        message = r"a/result.json and .*b/result.json are the same run: few-shot on digits, CoOp, seed 1"
        with pytest.raises(ValueError, match=message):
            load_runs([tmp_path])

    @pytest.mark.parametrize("content", ["{", "", b"\xff"])
    def test_what_is_no_json_is_named(self, content, tmp_path):
        path = tmp_path / "result.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=r"result.json is no JSON: "):
            load_runs([path])

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"protocol": "few"}, r"`protocol` must be one of \('few-shot', .*\), got 'few'"),
            ({"data": 3}, "`data` must be a text, got 3"),
            ({"settings": {}}, r"it has no `settings\.num_shots`"),
            ({"settings": {"num_shots": "16"}}, r"`settings\.num_shots` must be a whole number, got '16'"),
            ({"seed": True}, "`seed` must be a whole number, got True"),
            ({"seed": 1.5}, "`seed` must be a whole number, got 1.5"),
            ({"results": []}, r"`results` must be an object, got \[\]"),
            ({"results": {"base": measured(0.5)}}, r"it has no `results\.test`"),
            ({"protocol": "base-to-new"}, r"it has no `results\.base`"),
            ({"protocol": "domain", "results": {}}, "`results` is empty"),
            ({"results": {"test": 0.5}}, r"`results\.test` must be an object, got 0.5"),
            ({"results": {"test": {"accuracy": 0.5}}}, r"it has no `results\.test\.macro_accuracy`"),
            ({"results": {"test": measured(50)}}, r"`results\.test\.accuracy` must be a number from 0 to 1, got 50"),
            ({"results": {"test": measured(float("nan"))}}, r"`results\.test\.accuracy` .* got nan"),
        ],
    )
    def test_what_does_not_fit_names_file_and_key(self, changes, message, tmp_path):
        path = write(tmp_path / "result.json", record(**changes))
        with pytest.raises(ValueError, match=rf"result\.json is no result of a run: .*{message}"):
            load_runs([path])

    @pytest.mark.parametrize(
        "key", ["protocol", "data", "model", "method", "method_name", "settings", "seed", "results"]
    )
    def test_a_missing_key_is_named(self, key, tmp_path):
        content = record()
        del content[key]
        with pytest.raises(ValueError, match=rf"no result of a run: it has no `{key}`\."):
            load_runs([write(tmp_path / "result.json", content)])

    def test_a_list_is_no_result(self, tmp_path):
        with pytest.raises(ValueError, match=r"the file must be an object, got \[1\]"):
            load_runs([write(tmp_path / "result.json", [1])])


class TestAveraging:
    def test_over_seeds_takes_the_sample_standard_deviation(self):
        assert over_seeds({1: 0.5, 2: 0.6, 3: 0.7}) == Value(pytest.approx(0.6), pytest.approx(0.1), 3)

    def test_one_seed_has_no_deviation(self):
        assert over_seeds({1: 0.5}) == Value(0.5, None, 1)
        assert over_seeds({}) is None

    def test_over_datasets_averages_each_seed_first(self):
        # Seeds' averages are 0.5 and 0.5: what one dataset gains the other loses.
        assert over_datasets([{1: 0.4, 2: 0.6}, {1: 0.6, 2: 0.4}]) == Value(0.5, 0.0, 2)

    def test_over_datasets_with_other_seeds_has_no_deviation(self):
        assert over_datasets([{1: 0.4, 2: 0.6}, {1: 0.7}]) == Value(pytest.approx(0.6), None, 1)

    def test_over_datasets_needs_all(self):
        assert over_datasets([{1: 0.4}, {}]) is None


class TestLabels:
    def labels(self, *settings, across=(), models=("demo",)):
        runs = [run(settings=setting, model=model) for setting in settings for model in models]
        return [line.label for line in make_lines(runs, across)]

    def test_only_what_differs_is_named(self):
        end = {"n_ctx": 16, "class_token_position": "end", "class_specific_context": False, "augment": False}
        assert self.labels(end) == ["CoOp"]
        assert self.labels(end, {**end, "n_ctx": 4}) == ["CoOp, M = 4", "CoOp, M = 16"]
        assert self.labels(end, {**end, "class_token_position": "middle"}) == ["CoOp, end", "CoOp, middle"]
        assert self.labels(end, {**end, "class_specific_context": True}) == ["CoOp, unified", "CoOp, class-specific"]
        assert self.labels(end, {**end, "augment": True}) == ["CoOp, augment = False", "CoOp, augment = True"]
        assert self.labels(end, {**end, "num_epochs": 5}) == ["CoOp", "CoOp, num_epochs = 5"]

    def test_starts(self):
        random, words = {"n_ctx": 4, "ctx_init": None}, {"n_ctx": None, "ctx_init": "a photo of a"}
        assert self.labels(random, words) == ["CoOp, M = 4, random start", 'CoOp, "a photo of a"']

    def test_shots(self):
        runs = [run(shots=1), run(shots=16), run(method="zero-shot", shots=0)]
        assert [line.label for line in make_lines(runs)] == ["zero-shot CLIP", "CoOp, 1 shot", "CoOp, 16 shots"]
        assert [line.label for line in make_lines(runs, across=("num_shots",))] == ["zero-shot CLIP", "CoOp"]

    def test_settings_of_other_methods_do_not_count(self):
        runs = [run(settings={"n_ctx": 16}), run(method="cocoop", settings={"n_ctx": 4})]
        assert [line.label for line in make_lines(runs)] == ["CoOp", "CoCoOp"]

    def test_none_is_as_good_as_not_there(self):
        assert self.labels({}, {"num_epochs": None}) == ["CoOp"]

    def test_models(self):
        assert self.labels({}, models=("a/small", "b/large/")) == ["CoOp, small", "CoOp, large"]
        assert self.labels({}, models=("a/clip", "b/clip")) == ["CoOp, a/clip", "CoOp, b/clip"]

    def test_order(self):
        keys = ["cocoop", "text-bias", "coop", "prompt-ensemble", "linear-probe", "zero-shot"]
        runs = [run(method=key, shots=0 if key in ("zero-shot", "prompt-ensemble") else 16) for key in keys]
        ordered = ["zero-shot", "prompt-ensemble", "linear-probe", "text-bias", "coop", "cocoop"]
        assert [line.method for line in make_lines(runs)] == ordered


class TestFewShot:
    def runs(self, data="digits", shift=0.0):
        learned = {(1, 1): 0.4, (1, 2): 0.5, (16, 1): 0.7, (16, 2): 0.7}
        runs = [run(shots=shots, seed=seed, data=data, test=value + shift) for (shots, seed), value in learned.items()]
        return [*runs, run(method="zero-shot", shots=0, seed=0, data=data, test=0.3 + shift)]

    def test_table(self):
        expected = """\
## Few-shot: accuracy in % on digits, model demo

| method         |     0 |            1 |           16 | seeds |
| -------------- | ----: | -----------: | -----------: | ----: |
| zero-shot CLIP | 30.00 |            – |            – |     1 |
| CoOp           |     – | 45.00 ± 7.07 | 70.00 ± 0.00 |     2 |

Columns: training images per class."""
        assert [markdown(table) for table in make_tables(self.runs())] == [expected]

    def test_average_holds_what_all_datasets_have(self):
        runs = [*self.runs(), *self.runs("shapes", 0.1), run(method="cocoop", test=0.9)]
        *single, average = make_tables(runs)
        assert [table.title for table in single] == [
            "Few-shot: accuracy in % on digits, model demo",
            "Few-shot: accuracy in % on shapes, model demo",
        ]
        assert average.title == "Few-shot: accuracy in % averaged over 2 datasets, model demo"
        assert cells_of(average) == {
            "zero-shot CLIP": [35, None, None, "1"],
            "CoOp": [None, 50, 75, "2"],
            "CoCoOp": [None, None, None, ""],
        }

    def test_models_have_tables_of_their_own(self):
        assert [table.title.split()[-1] for table in make_tables([run(), run(model="large")])] == ["demo", "large"]

    def test_seeds_that_differ_within_a_row(self):
        (table,) = make_tables([run(shots=1), run(shots=16), run(shots=16, seed=2)])
        assert cells_of(table) == {"CoOp": [50, 50, "1–2"]}

    @pytest.mark.parametrize(
        "metric, name, value", [("macro_accuracy", "macro accuracy", 25), ("ece", "expected calibration error", 25)]
    )
    def test_other_metrics(self, metric, name, value):
        (table,) = make_tables([run()], metric)
        assert table.title == f"Few-shot: {name} in % on digits, model demo"
        assert cells_of(table) == {"CoOp": [value, "1"]}


def base_to_new(method, base, new, **more):
    splits = {"base": base} if new is None else {"base": base, "new": new}
    return run("base-to-new", method, **{"shots": 0 if method == "zero-shot" else 16, **more}, **splits)


class TestBaseToNew:
    def test_harmonic_mean_is_that_of_the_means(self):
        runs = [base_to_new("coop", 0.9, 0.3), base_to_new("coop", 0.7, 0.5, seed=2)]
        (table,) = make_tables(runs)
        # 2 · 0.8 · 0.4 / 1.2; the mean of the seeds' H would be 51.67.
        assert cells_of(table) == {"CoOp": [80, 40, 53.33, "2"]}
        assert [cell.std for cell in table.rows[0][1][:3]] == [pytest.approx(0.02**0.5), pytest.approx(0.02**0.5), None]

    def test_average_has_the_harmonic_mean_of_the_averages(self):
        runs = [base_to_new("coop", 0.9, 0.3, data="a"), base_to_new("coop", 0.7, 0.5, data="b")]
        assert cells_of(make_tables(runs)[2]) == {"CoOp": [80, 40, 53.33, "1"]}

    def test_the_papers_average_is_made_like_that(self):
        rows = published()["base_to_new"]
        datasets = [name for name in rows if name != "average"]
        runs = [base_to_new("cocoop", *(n / 100 for n in rows[data]["CoCoOp"][:2]), data=data) for data in datasets]
        average = cells_of(make_tables(runs)[-1])["CoCoOp"]
        assert average[:3] == pytest.approx(rows["average"]["CoCoOp"], abs=0.02)
        assert sum(rows[data]["CoCoOp"][2] for data in datasets) / 11 == pytest.approx(75.44, abs=0.01)

    def test_fewer_images_than_shots_are_told(self):
        """Columns of which both hold what was learned from all images do not say so by themselves."""
        used = {4: (4, 4), 16: (12, 16), 500: (12, 24), 1000: (12, 24)}
        runs = [replace(run(shots=shots, seed=seed), shots_used=used[shots]) for shots in used for seed in (1, 2)]
        (table,) = make_tables(runs)
        assert table.columns[1:-1] == ["4", "16", "500", "1000"]
        assert table.note == (
            "Columns: training images per class. "
            "16 shots of digits are 12 to 16 images per class, as there are no more. "
            "500 shots of digits are 12 to 24 images per class, as there are no more. "
            "1000 shots of digits are 12 to 24 images per class, as there are no more."
        )

    @pytest.mark.parametrize("protocol", ["base-to-new", "cross-dataset", "domain", "ablation"])
    def test_fewer_images_than_shots_are_told_in_every_table(self, protocol):
        one = run(protocol, shots=16, base=0.5, new=0.5, test=0.5)
        (table,) = make_tables([replace(one, shots_used=(5, 5))])
        assert "16 shots of digits are 5 images per class, as there are no more." in table.note
        (table,) = make_tables([replace(one, shots_used=(16, 16))])
        assert "no more" not in table.note
        (table,) = make_tables([one])  # a result of an older version
        assert "no more" not in table.note

    def test_without_new_classes(self):
        (table,) = make_tables([base_to_new("linear-probe", 0.9, None), base_to_new("coop", 0.5, 0.5)])
        assert cells_of(table) == {"linear probe": [90, None, None, "1"], "CoOp": [50, 50, 50, "1"]}

    def test_beside_published_numbers(self):
        words = {"settings": {"ctx_init": "a photo of a"}}
        runs = [
            base_to_new("zero-shot", 0.9, 0.9, data="oxford_pets", model=VIT_B16),
            base_to_new("coop", 0.9, 0.9, data="oxford_pets", model=VIT_B16, **words),
            base_to_new("coop", 0.8, 0.8, data="oxford_pets", model=VIT_B16, shots=4, **words),
            base_to_new("linear-probe", 0.9, None, data="oxford_pets", model=VIT_B16),
        ]
        (table,) = make_tables(runs)
        assert table.columns == ["method", "base", "new", "H", "paper: base", "paper: new", "paper: H", "seeds"]
        assert cells_of(table) == {
            "zero-shot CLIP": [90, 90, 90, 91.17, 97.26, 94.12, "1"],
            "linear probe": [90, None, None, None, None, None, "1"],
            "CoOp, 4 shots": [80, 80, 80, None, None, None, "1"],
            "CoOp, 16 shots": [90, 90, 90, 93.67, 95.29, 94.47, "1"],
        }
        assert "Published: CoCoOp (CVPR 2022), table 1; CLIP ViT-B/16, 16 shots" in table.note

    @pytest.mark.parametrize(
        "settings",
        [
            {"ctx_init": None, "n_ctx": 16},
            {"ctx_init": "a photo of a", "class_token_position": "middle"},
            {"ctx_init": "a photo of a", "num_epochs": 1},
            {"ctx_init": "a photo of a", "learning_rate": 0.1},
        ],
    )
    def test_other_prompts_and_recipes_than_the_papers_are_not_beside_their_numbers(self, settings):
        (table,) = make_tables([base_to_new("coop", 0.9, 0.8, data="dtd", model=VIT_B16, settings=settings)])
        assert cells_of(table)["CoOp"][3:6] == [None, None, None]

    def test_the_average_of_all_eleven_has_later_methods(self):
        datasets = [name for name in published()["base_to_new"] if name != "average"]
        average = make_tables(
            [
                base_to_new("cocoop", 0.9, 0.9, data=data, model=VIT_B16, settings={"ctx_init": "a photo of a"})
                for data in datasets
            ]
        )[-1]
        assert cells_of(average) == {
            "CoCoOp": [90, 90, 90, 80.47, 71.69, 75.83, "1"],
            "KgCoOp": [None, None, None, 80.73, 73.6, 77.0, ""],
            "IVLP": [None, None, None, 82.15, 74.07, 77.9, ""],
            "VPT": [None, None, None, 80.24, 73.43, 76.68, ""],
            "ProGrad": [None, None, None, 82.48, 70.75, 76.16, ""],
            "ProDA": [None, None, None, 81.56, 75.83, 76.65, ""],
            "MaPLe": [None, None, None, 82.28, 75.14, 78.55, ""],
            "PromptSRC": [None, None, None, 84.26, 76.10, 79.97, ""],
        }
        assert "PromptSRC repository" in average.note

    @pytest.mark.parametrize(
        "model, datasets",
        [
            ("openai/clip-vit-base-patch32", ["dtd"]),
            (VIT_B16, ["digits"]),
            (VIT_B16, ["dtd", "eurosat"]),
            (VIT_B16, ["average"]),
        ],
    )
    def test_nothing_is_published_of_other_models_and_data(self, model, datasets):
        assert published_base_to_new(model, datasets) == {}

    def test_published_for_a_local_copy_of_the_model(self):
        assert published_base_to_new("models/clip-vit-base-patch16/", ["dtd"])["CoOp"][0] == Value(0.7944)

    def test_published_numbers_are_accuracies(self):
        runs = [base_to_new("coop", 0.9, 0.9, data="dtd", model=VIT_B16)]
        assert make_tables(runs, "macro_accuracy")[0].columns == ["method", "base", "new", "H", "seeds"]
        assert make_tables(runs, "ece")[0].columns == ["method", "base", "new", "seeds"]


class TestTransfer:
    @pytest.mark.parametrize(
        "protocol, kind", [("cross-dataset", "Cross-dataset transfer"), ("domain", "Domain generalisation")]
    )
    def test_table(self, protocol, kind):
        runs = [
            run(protocol, seed=1, data="imagenet", imagenet=0.7, dtd=0.4, food101=0.8),
            run(protocol, seed=2, data="imagenet", imagenet=0.7, dtd=0.6, food101=0.8),
            run(protocol, "zero-shot", 0, data="imagenet", imagenet=0.6, dtd=0.4),
        ]
        (table,) = make_tables(runs)
        assert table.title == f"{kind} from imagenet: accuracy in %, model demo"
        assert table.columns == ["method", "imagenet (source)", "dtd", "food101", "average of targets", "seeds"]
        assert cells_of(table) == {"zero-shot CLIP": [60, 40, None, None, "1"], "CoOp": [70, 50, 80, 65, "2"]}
        assert table.rows[1][1][3].std == pytest.approx(0.1 / 2**0.5)

    def test_one_target_needs_no_average(self):
        (table,) = make_tables([run("domain", data="a", a=0.7, b=0.5)])
        assert table.columns == ["method", "a (source)", "b", "seeds"]


def test_ablation_has_a_row_for_each_setting():
    runs = [
        run("ablation", settings={"n_ctx": n_ctx}, model=model, shots=s)
        for n_ctx in (16, 4)
        for model, s in (("a/s", 1), ("a/l", 2))
    ]
    (table,) = make_tables(runs)
    assert table.title == "Ablation: accuracy in % on digits"
    assert table.columns == ["method", "accuracy", "seeds"]
    assert [label for label, _ in table.rows] == [
        "CoOp, 1 shot, M = 4, s",
        "CoOp, 1 shot, M = 16, s",
        "CoOp, 2 shots, M = 4, l",
        "CoOp, 2 shots, M = 16, l",
    ]


class TestFormats:
    table = Table(
        "On a|b", ["method", "50% of_x"], [('CoOp, "a photo"', [Value(0.5, 0.0123, 3)]), ("a|b & c", [None])], "n ± 1."
    )

    def test_markdown(self):
        assert (
            markdown(self.table)
            == """\
## On a\\|b

| method          |     50% of_x |
| --------------- | -----------: |
| CoOp, "a photo" | 50.00 ± 1.23 |
| a\\|b & c        |            – |

n ± 1."""
        )

    def test_latex(self):
        table = PaperTable(
            caption="On a|b, 50%. n ± 1.",
            label="few-shot a|b/c_d",
            headings=(["data_set"], ['CoOp, "a photo"', "CoCoOp"]),
            groups=[
                [(["x & y"], [Value(0.5, 0.0123, 3), Value(0.4)]), (["z"], [None, Value(0.3)])],
                [(["average"], [Value(0.25), Value(0.250004)])],
            ],
            num_own=2,
            lowest=False,
        )
        assert (
            latex(table)
            == r"""\begin{table}
\centering
\caption{On a\textbar{}b, 50\%. n $\pm$ 1.}
\label{tab:few-shot-a-b-c-d}
\par\smallskip
\small
\begin{adjustbox}{max width=\linewidth, max totalheight=0.85\textheight}
\begin{tabular}{lrr}
\toprule
data\_set & \shortstack[r]{CoOp, ``a \\ photo''} & CoCoOp \\
\midrule
x \& y & \textbf{50.00}{\tiny\,$\pm$\,1.23} & 40.00 \\
z & -- & 30.00 \\
\midrule
average & \textbf{25.00} & \textbf{25.00} \\
\bottomrule
\end{tabular}
\end{adjustbox}
\end{table}"""
        )

    def test_latex_escapes_in_one_pass(self):
        assert escape_latex("\\{~^}$#<>") == (
            r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}\}\$\#\textless{}\textgreater{}"
        )


def bold_of(table):
    """The best numbers, by row name (or "base", "new", "H" below it) and heading."""
    names = [row_names[-1] for group in table.groups for row_names, _ in group]
    return {(names[row], table.headings[1][column]) for row, column in table.best()}


class TestPaperTables:
    def test_base_to_new_has_datasets_as_rows_and_the_best_of_each(self):
        runs = [
            base_to_new("coop", 0.9, 0.3, data="a"),
            base_to_new("coop", 0.7, 0.5, data="b"),
            base_to_new("cocoop", 0.8, 0.4, data="a"),
            base_to_new("linear-probe", 0.95, None, data="a"),
        ]
        (table,) = make_paper_tables(runs)
        assert table.headings == (["dataset", ""], ["linear probe", "CoOp", "CoCoOp"])
        assert [names for group in table.groups for names, _ in group] == [
            [name if part == "base" else "", part] for name in ("a", "b", "average") for part in ("base", "new", "H")
        ]
        numbers = [[cell and round(cell.mean, 4) for cell in cells] for group in table.groups for _, cells in group]
        assert numbers[:3] == [[0.95, 0.9, 0.8], [None, 0.3, 0.4], [None, 0.45, 0.5333]]
        assert numbers[3:] == [[None, 0.7, None], [None, 0.5, None], [None, 0.5833, None]] + [
            [None, 0.8, None],
            [None, 0.4, None],
            [None, 0.5333, None],
        ]
        # A single number is no best one.
        assert bold_of(table) == {("base", "linear probe"), ("new", "CoCoOp"), ("H", "CoCoOp")}
        assert (table.label, table.lowest) == ("base-to-new demo", False)
        assert "H is the harmonic mean" in table.caption

    def test_published_numbers_stand_beside_and_are_never_the_best(self):
        words = {"ctx_init": "a photo of a"}
        runs = [
            base_to_new("coop", 0.5, 0.5, data="dtd", model=VIT_B16, settings=words),
            base_to_new("cocoop", 0.6, 0.4, data="dtd", model=VIT_B16, settings=words),
        ]
        (table,) = make_paper_tables(runs)
        assert table.headings[1] == ["CoOp", "CoCoOp", "published: CoOp", "published: CoCoOp"]
        assert table.groups[0][0][1][2] == Value(0.7944)
        assert bold_of(table) == {("base", "CoCoOp"), ("new", "CoOp"), ("H", "CoOp")}
        assert "CoCoOp (CVPR 2022), table 1" in table.caption
        assert make_paper_tables(runs, "ece")[0].headings[1] == ["CoOp", "CoCoOp"]
        other = [base_to_new("coop", 0.5, 0.5, data="dtd", model=VIT_B16, settings={"n_ctx": 16})]
        assert make_paper_tables(other)[0].headings[1] == ["CoOp"]

    def test_few_shot_has_a_table_for_each_number_of_shots(self):
        runs = [run(shots=shots, data=data, test=shots / 20) for shots in (1, 16) for data in ("a", "b")]
        runs += [run(method="zero-shot", shots=0, data=data, test=0.3) for data in ("a", "b")]
        one, sixteen = make_paper_tables(runs)
        assert [one.label, sixteen.label] == ["few-shot 1 demo", "few-shot 16 demo"]
        assert "1 training image per class" in one.caption
        assert "16 training images per class" in sixteen.caption
        assert bold_of(one) == {(name, "zero-shot CLIP") for name in ("a", "b", "average")}
        assert bold_of(sixteen) == {(name, "CoOp") for name in ("a", "b", "average")}
        assert [[names[0] for names, _ in group] for group in one.groups] == [["a", "b"], ["average"]]

    def test_what_looks_equal_is_equally_bold(self):
        runs = [run(test=0.50001), run(method="cocoop", test=0.50003), run(method="linear-probe", test=0.4)]
        assert bold_of(make_paper_tables(runs)[0]) == {("digits", "CoOp"), ("digits", "CoCoOp")}

    def test_of_errors_the_lowest_is_the_best(self):
        runs = [run(), run(method="cocoop")]
        runs[0].results["test"]["ece"] = 0.1
        assert bold_of(make_paper_tables(runs, "ece")[0]) == {("digits", "CoOp")}

    @pytest.mark.parametrize("protocol", ["cross-dataset", "domain"])
    def test_transfer(self, protocol):
        runs = [
            run(protocol, data="imagenet", imagenet=0.7, dtd=0.4, food101=0.8),
            run(protocol, "zero-shot", 0, data="imagenet", imagenet=0.6, dtd=0.5, food101=0.6),
        ]
        (table,) = make_paper_tables(runs)
        assert [[names[0] for names, _ in group] for group in table.groups] == [
            ["imagenet (source)", "dtd", "food101"],
            ["average of targets"],
        ]
        winners = {
            "imagenet (source)": "CoOp",
            "dtd": "zero-shot CLIP",
            "food101": "CoOp",
            "average of targets": "CoOp",
        }
        assert bold_of(table) == set(winners.items())
        assert table.label == f"{protocol} imagenet demo"

    def test_an_ablation_has_settings_as_rows_and_the_best_of_each_dataset(self):
        accuracies = {("a", 4): 0.5, ("a", 16): 0.6, ("b", 4): 0.9, ("b", 16): 0.7}
        runs = [run("ablation", data=d, settings={"n_ctx": n}, test=value) for (d, n), value in accuracies.items()]
        (table,) = make_paper_tables(runs)
        assert table.headings == (["setting"], ["a", "b", "average"])
        assert bold_of(table) == {("CoOp, M = 16", "a"), ("CoOp, M = 4", "b"), ("CoOp, M = 4", "average")}

    def test_labels_are_distinct(self):
        runs = [base_to_new("coop", 0.9, 0.8, model=model) for model in ("a/clip", "b/clip", "c/clip")]
        labels = [table.label for table in make_paper_tables(runs)]
        assert labels == ["base-to-new clip", "base-to-new clip 2", "base-to-new clip 3"]

    def test_the_caption_counts_seeds(self):
        runs = [run(seed=seed) for seed in (1, 2, 3)] + [run(method="zero-shot", shots=0, seed=0)]
        assert (
            "After ±: the sample standard deviation (divided by n - 1) of 3 seeds."
            in make_paper_tables(runs)[0].caption
        )
        assert "±" not in make_paper_tables(runs[:1])[0].caption


class TestReport:
    def test_format_has_every_protocol_in_order(self):
        runs = [
            run("ablation"),
            run("domain", data="a", a=0.5, b=0.5),
            run("cross-dataset", data="a", a=0.5, b=0.5),
            base_to_new("coop", 0.5, 0.5),
            run(),
        ]
        text = format_report(runs)
        assert text.startswith("# Report\n\nWhere there are several seeds: mean ± sample standard deviation")
        headings = [line.split(":")[0] for line in text.splitlines() if line.startswith("##")]
        kinds = ["Few-shot", "Base to new", "Cross-dataset transfer from a", "Domain generalisation from a", "Ablation"]
        assert headings == [f"## {kind}" for kind in kinds]

    def test_write(self, tmp_path):
        runs = [
            run(settings={"n_ctx": 16}),
            base_to_new("coop", 0.9, 0.8),
            base_to_new("coop", 0.9, 0.8, model="my model"),
        ]
        files = write_report(runs, tmp_path / "new" / "report")
        stems = ["few-shot", "base-to-new_1-demo", "base-to-new_2-my-model"]
        pictures = [f"{stem}.{ending}" for stem in stems for ending in ("png", "pdf")]
        assert [path.name for path in files] == ["report.md", "report.tex", "report.csv", *pictures]
        assert all(path.parent == tmp_path / "new" / "report" and path.stat().st_size for path in files)
        text = files[0].read_text(encoding="utf-8")
        assert text.startswith(format_report(runs).rstrip("\n"))
        assert text.endswith("![base-to-new_2-my-model](base-to-new_2-my-model.png)\n")
        written = files[1].read_text(encoding="utf-8")
        assert written.startswith(r"% \usepackage{booktabs,adjustbox}")
        labels = ["few-shot-16-demo", "base-to-new-demo", "base-to-new-my-model"]
        assert re.findall(r"\\label{tab:(.*)}", written) == labels

    def test_every_protocol_has_its_figure(self, tmp_path):
        transfers = [
            run(protocol, data=data, **{data: 0.5, "c": 0.6})
            for protocol, data in (("cross-dataset", "a"), ("domain", "a"), ("domain", "b"))
        ]
        ablations = [run("ablation", model=model) for model in ("s", "l")]  # models are compared in one figure
        files = write_report([*transfers, *ablations], tmp_path)
        pictures = ["cross-dataset.png", "domain_1-a-demo.png", "domain_2-b-demo.png", "ablation.png"]
        assert [path.name for path in files if path.suffix == ".png"] == pictures

    def test_csv_has_every_run_split_metric_and_setting(self, tmp_path):
        words = {"n_ctx": None, "ctx_init": "a, b", "class_specific_context": True}
        runs = [base_to_new("coop", 0.9, 0.8, settings=words), base_to_new("zero-shot", 0.5, None)]
        text = write_report(runs, tmp_path)[2].read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [(row["method"], row["split"], row["accuracy"]) for row in rows] == [
            ("coop", "base", "0.9"),
            ("coop", "new", "0.8"),
            ("zero-shot", "base", "0.5"),
        ]
        assert rows[1] == {
            "protocol": "base-to-new",
            "data": "digits",
            "model": "demo",
            "method": "coop",
            "method_name": "CoOp",
            "seed": "1",
            "split": "new",
            "accuracy": "0.8",
            "macro_accuracy": "0.4",
            "ece": "0.25",
            "num_examples": "8",
            "settings.num_shots": "16",
            "settings.n_ctx": "",
            "settings.ctx_init": "a, b",
            "settings.class_specific_context": "true",
        }
        assert rows[2]["settings.ctx_init"] == ""

    def test_from_files_to_text(self, tmp_path):
        for seed, accuracy in ((1, 0.5), (2, 0.7)):
            results = {"test": measured(accuracy)}
            write(tmp_path / str(seed) / "result.json", record(seed=seed, results=results))
        assert "| CoOp   | 60.00 ± 14.14 |     2 |" in format_report(load_runs(tmp_path))

    @pytest.mark.parametrize(
        "report", [format_report, lambda runs, metric="accuracy": write_report(runs, Path("x"), metric)]
    )
    def test_refuses(self, report):
        with pytest.raises(ValueError, match=r"There is no run to report\."):
            report([])
        with pytest.raises(ValueError, match=r"`metric` must be one of \('accuracy', .*\), got 'f1'"):
            report([run()], metric="f1")


class TestCompositions:
    """Seen and unseen pairs: every metric in one table, and the curve."""

    @staticmethod
    def world(auc, curve=((0.4, 0.2, 0.0), (0.0, 0.3, 0.5))):
        seen, unseen = map(list, curve)
        numbers = {"best_seen": 0.4, "best_unseen": 0.5, "best_hm": 0.24, "auc": auc, "attr_acc": 0.3, "obj_acc": 0.6}
        more = {"best_hm_seen": 0.2, "best_hm_unseen": 0.3, "num_examples": 8, "num_candidates": 12}
        return {**numbers, **more, "curve": {"seen": seen, "unseen": unseen}}

    def run(
        self, method="csp", seed=1, aucs=(0.2, 0.1), data="mit-states", model="x/clip-vit-large-patch14", **settings
    ):
        own = METHODS[method].fields("composition") if method in METHODS else {}
        results = {world: self.world(auc) for world, auc in zip(("closed", "open"), aucs, strict=False)}
        of_images = {"num_shots": 9, "all_images": True} if method in METHODS else {"num_shots": 0}
        name = {"csp": "CSP", "zero-shot": "zero-shot CLIP"}.get(method, method)
        return Run("composition", data, model, method, name, {**of_images, **own, **settings}, seed, results)

    def test_a_table_for_each_world_beside_published_numbers(self):
        runs = [self.run("zero-shot", 0), self.run(seed=1), self.run(seed=2, aucs=(0.3, 0.2))]
        closed, opened = make_tables(runs)
        assert closed.columns == [
            *("method", "seen", "unseen", "HM", "AUC", "attribute", "object"),
            *("paper: seen", "paper: unseen", "paper: HM", "paper: AUC", "seeds"),
        ]
        assert cells_of(closed) == {
            "zero-shot CLIP": [40, 50, 24, 20, 30, 60, 30.2, 46.0, 26.1, 11.0, "1"],
            "CSP": [40, 50, 24, 25, 30, 60, 46.6, 49.9, 36.3, 19.4, "2"],
            "CoOp": [*[None] * 6, 34.4, 47.6, 29.8, 13.5, ""],
        }
        assert closed.rows[1][1][3].std == pytest.approx(0.05 * 2**0.5)
        assert cells_of(opened)["CSP"][6:10] == [46.3, 15.7, 17.4, 5.7]
        assert cells_of(opened)["zero-shot CLIP"][6:10] == [None] * 4
        assert closed.title == "Composition: accuracy in % on mit-states, closed world, model x/clip-vit-large-patch14"
        assert "Published, all second-hand: " in closed.note
        assert "feasibility calibration" in opened.note

    @pytest.mark.parametrize(
        "changed",
        [{"embed_dropout": 0.1}, {"all_images": False}, {"learning_rate": 0.1}, {"model": "demo"}, {"data": "mine"}],
    )
    def test_published_numbers_are_beside_what_was_learned_so_only(self, changed):
        closed, *_ = make_tables([self.run(**changed)])
        cells = cells_of(closed)["CSP"]
        assert len(cells) == 7 or cells[6:10] == [None] * 4

    def test_latex_has_the_best_of_each_column(self):
        closed, opened = make_paper_tables(
            [self.run("zero-shot", 0, data="own"), self.run(aucs=(0.3, 0.1), data="own")]
        )
        assert closed.headings == (["method"], ["seen", "unseen", "HM", "AUC", "attribute", "object"])
        assert (1, 3) in closed.best()
        assert (0, 3) not in closed.best()
        assert [table.label for table in (closed, opened)] == [
            "composition own closed clip-vit-large-patch14",
            "composition own open clip-vit-large-patch14",
        ]

    def test_files(self, tmp_path):
        runs = [self.run(seed=1), self.run(seed=2, aucs=(0.3,)), self.run(data="own"), run()]
        names = {path.name for path in write_report(runs, tmp_path)}
        assert {"composition_1-mit-states-clip-vit-large-patch14.png", "few-shot.png"} <= names
        rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
        assert [(row["split"], row["auc"], row["accuracy"]) for row in rows if row["data"] == "mit-states"] == [
            *(("closed", "0.2", ""), ("open", "0.1", ""), ("closed", "0.3", "")),
        ]
        assert [row["accuracy"] for row in rows if row["protocol"] == "few-shot"] == ["0.5"]

    def test_curves_are_averaged_over_seeds(self):
        first, second = self.world(0.1, ((0.4, 0.2), (0.0, 0.4))), self.world(0.2, ((0.8, 0.0), (0.0, 0.8)))
        runs = [replace(self.run(seed=seed), results={"closed": each}) for seed, each in ((1, first), (2, second))]
        figure = composition_figure(runs)
        [axes] = figure.axes
        curve, point = axes.lines
        x, y = curve.get_data()
        assert np.interp([0, 20, 39], x, y) == pytest.approx([60, (30 + 60) / 2, (20.5 + 41) / 2], abs=0.2)
        assert np.interp(60, x, y) == pytest.approx(10, abs=0.2)  # the first does not reach so far
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (pytest.approx(30), pytest.approx(20))
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == ["CSP: AUC 15.0 ± 7.1", "marks: the best harmonic mean"]
        with pytest.raises(ValueError, match=r"A figure is of one dataset, got \['mit-states', 'own'\]"):
            composition_figure([*runs, self.run(data="own")])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"auc": 1.5}, r"`results.closed.auc` must be a number from 0 to 1, got 1.5"),
            ({"curve": {"seen": [0.5]}}, "it has no `results.closed.curve.unseen`"),
            ({"curve": {"seen": [0.5], "unseen": []}}, "must have two lists of one length"),
            ({"curve": {"seen": ["a"], "unseen": [1]}}, "a point of `results.closed.curve.seen` must be a number"),
            ({"best_hm_seen": None}, "`results.closed.best_hm_seen` must be a number from 0 to 1, got None"),
        ],
    )
    def test_a_damaged_result_is_refused(self, tmp_path, wrong, message):
        results = {"closed": {**self.world(0.2), **wrong}}
        path = write(tmp_path / "kept.json", record(protocol="composition", results=results))
        with pytest.raises(ValueError, match=message):
            load_runs(path)


class TestOtherMetrics:
    """Of videos and of images with several labels."""

    @staticmethod
    def make_runs():
        old, new = run("video-few-shot", test=0.5), run("video-few-shot", test=0.25, seed=2)
        new.results["test"]["top5_accuracy"] = 0.75
        labels = run("several-labels-few-shot", data="colours")
        labels.results["test"] = {"mean_average_precision": 0.7, "f1_macro": 0.6, "f1_micro": 0.5, "num_examples": 8}
        return [old, new, run(test=0.4), labels]

    def test_a_protocol_without_the_metric_shows_its_first(self):
        titles = [(table.title, cells_of(table)["CoOp"][0]) for table in make_tables(self.make_runs(), "top5_accuracy")]
        assert [(title.split(" in %")[0], value) for title, value in titles] == [
            ("Few-shot: accuracy", 40.0),
            ("Few-shot: top-5 accuracy", 75.0),
            ("Few-shot: mean average precision", 70.0),
        ]
        captions = [table.caption for table in make_paper_tables(self.make_runs(), "f1_micro")]
        assert ["F1 over all labels in %" in caption for caption in captions] == [False, False, True]

    def test_the_table_of_all_numbers_has_those_that_are_there(self, tmp_path):
        write_report(self.make_runs(), tmp_path, "top5_accuracy")
        rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
        assert [row["top5_accuracy"] for row in rows] == ["", "0.75", "", ""]
        assert [row["mean_average_precision"] for row in rows] == ["", "", "", "0.7"]
        names = {path.name for path in tmp_path.glob("*.png")}
        assert names == {"few-shot.png", "video-few-shot.png", "several-labels-few-shot.png"}

    def test_older_results_without_it_are_read(self, tmp_path):
        old, new = self.make_runs()[:2]
        for each, changes in ((old, {}), (new, {"top5_accuracy": 1.5})):
            results = {"test": {**each.results["test"], **changes}}
            write(tmp_path / "result.json", record(protocol="video-few-shot", results=results))
            if not changes:
                assert load_runs(tmp_path)[0].results == results
        with pytest.raises(ValueError, match=r"`results.test.top5_accuracy` must be a number from 0 to 1, got 1\.5"):
            load_runs(tmp_path / "result.json")

    def test_there_is_no_other_metric(self):
        with pytest.raises(ValueError, match=r"`metric` must be one of .*'top5_accuracy'.* got 'top1'"):
            make_tables(self.make_runs(), "top1")
