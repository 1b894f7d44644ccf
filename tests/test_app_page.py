"""The page of `peft-coop app` in a real browser: Chromium without a window, with a server in a process of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from peft import get_peft_model
from PIL import Image

from peft_coop import CoOpConfig
from peft_coop.demo import load_clip, load_task

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(not find_spec("gradio"), reason="gradio is not installed: pip install '.[app]'"),
    pytest.mark.skipif(not find_spec("playwright"), reason="playwright, which drives the browser, is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
WAIT = 30_000  # milliseconds; a busy machine takes long
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_CLASSES = [HOSTILE, "</script><script>alert(2)</script>", "{{7*7}} $x$"]
# The contrast of a colour with another one, as the Web Content Accessibility Guidelines count it.
CONTRAST = """element => {
    const light = text => text.match(/[\\d.]+/g).slice(0, 3).map(each => each / 255)
        .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, channel) => sum + each * [0.2126, 0.7152, 0.0722][channel], 0);
    const style = getComputedStyle(element);
    const [ink, paper] = [light(style.color), light(style.backgroundColor)];
    return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), paper];
}"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of digits, by class and number."""
    folder, task = tmp_path_factory.mktemp("pictures"), load_task("digits")
    found = {}
    for row in task.train.select(range(120)):
        name = task.class_names[row["label"]]
        number = sum(name in key for key in found)
        found[name, number] = folder / f"{name}-{number}.png"
        row["image"].resize((192, 192), Image.Resampling.NEAREST).save(found[name, number])
    return found


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """One of digits, and one whose classes would be a program if they were no text."""
    names = {"digits": load_task("digits").class_names, "hostile": HOSTILE_CLASSES}
    folders = {title: tmp_path_factory.mktemp("adapters") / title for title in names}
    for title, folder in folders.items():
        model = get_peft_model(load_clip(), CoOpConfig(n_ctx=4, class_names=names[title]))
        model.save_pretrained(folder)
    return list(folders.values())


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The server's folder of temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(tmp_path_factory, adapters, temporary):
    """The page's, while the server runs; told to end, it leaves nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["TMPDIR"] = str(temporary)
    command = [sys.executable, "-m", "peft_coop", "app", "--quiet", "--port", str(port)]
    command += ["--adapter", *map(str, adapters)]
    with log.open("w") as out, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, env=environment) as server:
        line = server.stdout.readline().decode()
        assert line.startswith("The page is at "), log.read_text()
        yield line.removeprefix("The page is at ").strip()
        assert server.poll() is None, log.read_text()  # nothing that was done has ended it
        assert [path for path in temporary.rglob("*.png") if path.is_file()]  # of visitors
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page as another visitor; with what the browser asked for, and what it showed by itself."""
    visits = []

    def open_one(width=1280, height=900, colours="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
        page = context.new_page()
        page.asked, page.shown = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("dialog", lambda dialog: (page.shown.append(dialog.message), dialog.dismiss()))
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#names textarea")
        visits.append(context)
        return page

    yield open_one
    for context in visits:
        context.close()


def upload(page, *files, into="#picture"):
    page.set_input_files(f"{into} input[type=file]", [str(file) for file in files])


def add_classes(page, pictures):
    """Two classes to learn, with four pictures of each."""
    for name in ("three", "seven"):
        page.fill("#new-name input, #new-name textarea", name)
        upload(page, *(pictures[name, number] for number in range(4)), into="#new-pictures")
        page.wait_for_selector(f"#new-pictures :text('{name}-3')")
        page.click("#add")
        page.wait_for_function(f"document.querySelector('#classes').innerText.includes('{name}')")
        page.wait_for_selector("#new-pictures input[type=file]", state="attached")


def wait_for(found):
    """What a call returns when that is something; or its last nothing."""
    end = time.monotonic() + WAIT / 1000
    while not found() and time.monotonic() < end:
        time.sleep(0.02)
    return found()


def rows(page, within="#result"):
    """The classes of the table and their numbers."""
    return {
        row.locator("th").inner_text(): [cell.inner_text() for cell in row.locator("td").all()]
        for row in page.locator(f"{within} tbody tr").all()
    }


def overflows(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def picture_of(page, name):
    """A screenshot where somebody wants to look at it: in the folder APP_SCREENSHOTS."""
    if folder := os.environ.get("APP_SCREENSHOTS"):
        page.wait_for_timeout(800)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def test_a_picture_is_classified_and_classes_change_with_it(open_page, pictures, address):
    page = open_page()
    upload(page, pictures["three", 0])
    page.wait_for_selector("#result tbody tr")
    assert len(rows(page)) == 10
    page.wait_for_selector("#preview img")
    picture_of(page, "classify-desktop")
    page.fill("#names textarea", f"three\nseven\nÅngström 犬\n{HOSTILE}")
    page.wait_for_function("document.querySelectorAll('#result tbody tr').length == 4")
    found = rows(page)
    assert set(found) == {"three", "seven", "Ångström 犬", HOSTILE}
    assert sum(float(numbers[-1].rstrip("%")) for numbers in found.values()) == pytest.approx(100, abs=0.3)
    assert page.locator("#result img").count() == 0
    assert page.shown == []
    elsewhere = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
    assert "default-src 'self'" in page.request.get(address).headers["content-security-policy"]
    assert len(page.asked) > 5


def test_prompts_of_a_list_answer_the_same_picture_each_with_its_classes(open_page, pictures):
    page = open_page()
    upload(page, pictures["three", 0])
    page.wait_for_function("document.querySelector('#result thead')?.innerText.includes('digits')")
    digits = rows(page)
    for title, classes in (("hostile", set(HOSTILE_CLASSES)), ("digits", set(digits))):
        page.click("#choice input")
        page.get_by_role("option", name=title).click()
        page.wait_for_function(f"document.querySelector('#result thead')?.innerText.includes('{title}')")
        assert set(rows(page)) == classes == set(page.input_value("#names textarea").splitlines())
    assert rows(page) == digits
    assert page.locator("#result img").count() == 0
    assert page.shown == []


def test_a_visitor_who_leaves_ends_the_own_training(open_page, pictures, temporary):
    page = open_page()
    page.get_by_role("tab", name="Learn").click()
    # One column beside the other, in all of the page's width.
    assert page.locator("#learn").bounding_box()["x"] > page.locator("#add").bounding_box()["x"] + 300
    add_classes(page, pictures)
    page.fill("input[type=number]", "200")
    before = set(temporary.glob("peft-coop-app-*/peft-coop-*"))
    page.click("#learn")
    [own] = wait_for(lambda: set(temporary.glob("peft-coop-app-*/peft-coop-*")) - before)
    page.context.close()
    assert wait_for(lambda: not own.exists())  # what is learned to the end stays for its visitor


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_what_is_wrong_can_be_read_in_the_dark_too(open_page, colours):
    page = open_page(colours=colours)
    page.fill("#names textarea", "three\nThree")
    page.wait_for_selector("#result [role=alert]")
    contrast, paper = page.locator("#result [role=alert]").evaluate(CONTRAST)
    assert contrast > 4.5
    assert (paper < 0.2) == (colours == "dark")
    picture_of(page, f"wrong-{colours}")


def test_wrong_input_is_told_and_the_server_goes_on(open_page, pictures, tmp_path):
    page = open_page()
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures["three", 0].read_bytes()[:60])
    upload(page, broken)
    page.wait_for_selector("#result [role=alert]")
    assert "broken.png" in page.inner_text("#result")
    assert str(tmp_path.parent) not in page.inner_text("#result")
    picture_of(page, "bad-file-desktop")
    page.fill("#names textarea", "three\nThree")
    page.wait_for_function("document.querySelector('#result').innerText.includes('is there twice')")
    page.fill("#names textarea", "")
    page.wait_for_function("document.querySelector('#result').innerText.includes('There are no class names')")
    page.fill("#names textarea", "three\nseven")
    page.click("#picture button[aria-label^='Remove'], #picture button[aria-label^='Clear']")
    page.wait_for_selector("#picture input[type=file]", state="attached")
    upload(page, pictures["three", 1])
    page.wait_for_selector("#result tbody tr")
    assert set(rows(page)) == {"three", "seven"}


def test_a_prompt_is_learned_from_a_few_pictures_for_its_visitor_alone(open_page, pictures):
    page, other = open_page(), open_page()
    page.get_by_role("tab", name="Learn").click()
    add_classes(page, pictures)
    assert rows(page, "#classes") == {"three": ["4"], "seven": ["4"]}
    page.fill("input[type=number]", "100")
    page.click("#learn")
    page.wait_for_selector("#state [role=status]:has-text('Learned 2 classes from 8 pictures')")
    picture_of(page, "learn-desktop")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "prompt.zip"
    page.get_by_role("tab", name="Classify").click()
    assert page.input_value("#names textarea") == "three\nseven"
    upload(page, pictures["seven", 5])
    page.wait_for_selector("#result tbody tr")
    assert all(len(numbers) == 2 for numbers in rows(page).values())
    picture_of(page, "learned-desktop")
    page.get_by_role("tab", name="Nearest words").click()
    page.click("#show-words")
    page.wait_for_selector("#words tbody tr")
    assert re.search(r"\d\.\d{3}", page.inner_text("#words"))
    picture_of(page, "words-desktop")
    assert len(other.input_value("#names textarea").splitlines()) == 10
    upload(other, pictures["seven", 5])
    other.wait_for_selector("#result tbody tr")
    assert len(rows(other)) == 10
    assert "learned here" not in other.inner_text("#result")


def test_nothing_is_cut_off_on_a_phone(open_page, pictures):
    page = open_page(390, 844)
    upload(page, pictures["three", 0])
    page.fill("#names textarea", "three\n" + "a very long class name without an end " * 5)
    page.wait_for_selector("#result [role=alert]")  # the tower has no room for it
    assert overflows(page) <= 0
    page.fill("#names textarea", "three\na class name of a good many words in a row\n" + "x" * 20)
    page.wait_for_function("document.querySelectorAll('#result tbody tr').length == 3")
    assert overflows(page) <= 0
    picture_of(page, "classify-phone")
    for tab in ("Learn", "Nearest words"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert overflows(page) <= 0
        picture_of(page, f"{tab.split()[0].lower()}-phone")
