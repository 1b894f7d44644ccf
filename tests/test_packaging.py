"""What is shipped beside the code: the wheel's contents, extras, and files that other tools read."""

import re
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import peft_coop

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this checkout, built in this process: no network, no environment of its own."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_source_distribution_holds_what_its_tests_read(tmp_path):
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {".ci/run", ".github/workflows/tests.yml", "CITATION.cff", "README.md", "mkdocs.yml"} <= held
    read = [*(ROOT / "tests").glob("*.py"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in read} <= held


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


def requirements(metadata, extra: str) -> set[str]:
    """What an extra asks for."""
    marker = f"extra == '{extra}'"
    return {text.partition(";")[0].strip() for text in metadata.get_all("Requires-Dist") if text.endswith(marker)}


def test_the_wheel_says_that_it_is_typed(wheel, metadata):
    assert "peft_coop/py.typed" in wheel.namelist()
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_the_page_of_the_package_index_is_readme_without_links_that_lead_nowhere_there(metadata):
    written, shown = (ROOT / "README.md").read_text(encoding="utf-8"), metadata.get_payload()
    link = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
    assert len([target for _, target in link.findall(written) if "://" not in target]) > 30
    assert [target for _, target in link.findall(shown) if not target.startswith("https://")] == []
    assert "](https://github.com/huggingface/peft)" in shown
    assert "*`docs/images/demo-few-shot.png` in the repository: accuracy over labelled images per class.*" in shown
    assert set(re.findall(r"\w+", link.sub(r"\1", written))) <= set(re.findall(r"\w+", shown))
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_wheel_has_all_data_files_and_nothing_else(wheel):
    shipped = {name for name in wheel.namelist() if name.startswith("peft_coop/")}
    own = [path for path in (ROOT / "peft_coop").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert shipped == {path.relative_to(ROOT).as_posix() for path in own}
    assert all(name.startswith("peft_coop") for name in wheel.namelist())


def test_the_command_line_has_an_extra_and_its_old_name(metadata):
    assert {requirement.split(">")[0] for requirement in requirements(metadata, "cli")} >= {
        "datasets",
        "matplotlib",
        "scikit-learn",
    }
    resolved = requirements(metadata, "cli")  # builders differ in whether they resolve a project's own extras
    assert requirements(metadata, "demo") in ({"peft-coop[cli]"}, resolved)


def test_every_page_names_an_extra_that_exists(metadata):
    extras = set(metadata.get_all("Provides-Extra"))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    pages += [ROOT / "Makefile", *(ROOT / "peft_coop").rglob("*.py")]
    named = {
        extra
        for page in pages
        for found in re.findall(r"(?:peft-coop|\"\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert "cli" in named
    assert "demo" not in named
    assert named <= extras


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == peft_coop.__version__
    assert citation["license"] == "Apache-2.0"
    cited = {identifier["value"] for work in citation["references"] for identifier in work["identifiers"]}
    assert cited == {"arXiv:2109.01134", "arXiv:2203.05557"}


def test_the_workflow_of_the_site_runs_a_target():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make docs"]
    assert "\nmake docs\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "\ndocs: " in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflow_runs_what_a_contributor_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    assert (ROOT / command).is_file()
    oldest = f">={job['strategy']['matrix']['python'][0]}"
    assert f'requires-python = "{oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
