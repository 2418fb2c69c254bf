"""The page in a real browser: record, drop, read the answer, hear a part, correct it; and nothing goes to another host.

Needs Playwright, an extra that conda.yaml names, and a Chromium: ``SOUNDSTACK_CHROMIUM``, the system's, or the one that
``playwright install chromium`` fetches.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import test_recognisers
from soak_bench.server import free_port
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.page import app, corrections
from soundstack.page.answers import Listener, reliability
from test_page import LIMITS, of, rows_of
from test_serving import encoded
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright, an extra that conda.yaml names")
pytestmark = pytest.mark.e2e
svm, fusion = test_recognisers.svm, test_recognisers.fusion  # fixtures
HERTZ = 1000.0
#: A file dropped onto an element, as a browser hands it over.
_DROP = """
(element, [name, content]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, {type: "audio/wav"}));
  for (const type of ["dragenter", "dragover", "drop"])
    element.dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
}
"""
_NAMELESS = """
elements => elements.filter(each => each.checkVisibility() &&
    !(each.ariaLabel || each.innerText?.trim() || each.title || each.alt || each.labels?.length))
    .map(each => each.outerHTML.slice(0, 200))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corrections"


@pytest.fixture
def address(folder: Path, fusion: FusionRecogniser) -> Iterator[str]:
    page = app.Page(Listener("demo-fusion/1", fusion, LIMITS), reliability(None), folder)
    with app.served(page, "127.0.0.1", free_port()) as found:
        yield found


@pytest.fixture
def browser(address: str, tmp_path: Path, tone: Callable[..., Path]) -> Iterator[Page]:
    """The page in Chromium, with a microphone that hears a tone; it must ask for nothing elsewhere and log no error."""
    heard = tone("heard.wav", hertz=HERTZ, rate=48_000, seconds=3)
    path = os.environ.get("SOUNDSTACK_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    asked, errors = [], []
    with playwright.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("needs a Chromium: set SOUNDSTACK_CHROMIUM, or run `playwright install chromium`")
        options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = driver.chromium.launch(
            executable_path=path, args=[*options, f"--use-file-for-fake-audio-capture={heard}"]
        )
        context = chromium.new_context(viewport={"width": 1200, "height": 900})
        context.grant_permissions(["microphone"], origin=address.rstrip("/"))
        context.set_default_timeout(1000 * PATIENCE)
        context.on("request", lambda request: asked.append(request.url))
        context.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page = context.new_page()
        page.goto(address)
        yield page
        chromium.close()
    assert [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))] == []
    assert len([url for url in asked if url.startswith(address)]) > 10
    assert [error for error in errors if "Waveform load error" not in error] == []  # it cannot play what is no sound


def drop(page: Page, name: str, content: bytes) -> None:
    page.get_by_label("Upload file").click()
    area = page.get_by_text("Drop Audio Here").locator("xpath=ancestor::button")
    area.evaluate(_DROP, [name, base64.b64encode(content).decode()])


def test_a_file_is_dropped_answered_heard_and_corrected(browser: Page, folder: Path, fusion: FusionRecogniser) -> None:
    clip = encoded(seconds=2.5)
    drop(browser, "dropped.wav", clip)
    picture = browser.locator("#picture img")
    picture.wait_for()
    answer = Listener("demo-fusion/1", fusion, LIMITS).answer(clip)
    assert browser.locator("#verdict").inner_text().startswith(f"{answer.label}, {100 * answer.probability:.0f} %.")
    assert (picture.get_attribute("alt") or "").startswith("Spectrogram and timeline. 0.0 to ")
    assert browser.locator("#opinions tbody tr").count() == len(fusion.members)

    browser.get_by_label("From (s)").fill("0.5")
    browser.get_by_label("To (s)").fill("1")
    with browser.expect_response(lambda response: "file=" in response.url and response.url.endswith(".wav")):
        browser.get_by_role("button", name="Play this part").click()

    browser.get_by_role("combobox", name="Right class").fill("kettle")
    browser.get_by_role("combobox", name="Right class").press("Enter")
    browser.get_by_label("Recording (optional)").fill("kitchen")
    browser.get_by_role("button", name="Save the correction").click()
    browser.get_by_role("status").get_by_text("Saved as kettle").wait_for()
    (row,) = rows_of(folder)
    assert (row["label"], row["group"], row["recognised"]) == ("kettle", "kitchen", answer.label)
    np.testing.assert_array_equal(of((folder / row["filename"]).read_bytes())[0], of(clip)[0])
    assert browser.locator("button, input, textarea, img").evaluate_all(_NAMELESS) == []


def test_a_sound_is_recorded_answered_and_corrected_to_none_of_the_classes(browser: Page, folder: Path) -> None:
    browser.get_by_label("Record audio").click()
    browser.get_by_role("button", name="Record", exact=True).click()
    until(lambda: browser.get_by_text("0:02").count() > 0 or browser.wait_for_timeout(100))
    browser.get_by_role("button", name="Stop").first.click()
    browser.locator("#picture img").wait_for()
    browser.get_by_role("combobox", name="Right class").click()
    browser.get_by_role("option", name="none of these").click()
    browser.get_by_role("button", name="Save the correction").click()
    browser.get_by_role("status").get_by_text("Saved as none").wait_for()
    (row,) = rows_of(folder)
    assert row["label"] == app.NONE
    samples, rate = of((folder / row["filename"]).read_bytes())
    assert len(samples) > rate
    spectrum = np.abs(np.fft.rfft(samples[:, 0]))
    assert abs(spectrum.argmax() * rate / len(samples) - HERTZ) < 20


def test_what_is_no_sound_is_told_in_the_page(browser: Page, folder: Path) -> None:
    drop(browser, "picture.wav", b"Not a sound at all.")
    browser.get_by_role("alert").get_by_text("The sound cannot be decoded").wait_for()
    browser.get_by_role("button", name="Save the correction").click()
    assert not (folder / corrections.TABLE).exists()
