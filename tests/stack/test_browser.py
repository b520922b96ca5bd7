"""A click in Prefect's UI: the form of the on-demand deployment, the run, its artifacts. Screenshots are kept."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_WAIT_MS = 60_000


@pytest.fixture
def page(stack: Any) -> Iterator[Any]:
    """A page of Debian's chromium, and of nothing that Playwright would download."""
    if _CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        )
        opened = browser.new_page(viewport={"width": 1400, "height": 1600})
        opened.set_default_timeout(_WAIT_MS)
        # What the login page keeps after the right password was typed.
        login = base64.b64encode(stack.login.encode()).decode("ascii")
        opened.add_init_script(f"localStorage.setItem('prefect-password', '{login}')")
        yield opened
        browser.close()


def test_the_form_starts_a_run_that_shows_its_artifacts(stack: Any, scheduled: dict[str, Any], page: Any) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if _leaves(request.url) else None)
    ui, on_demand = stack.described["prefect_ui"], stack.deployment("retrain/on-demand")

    page.goto(f"{ui}/deployments/deployment/{on_demand['id']}/run")
    submit = page.get_by_role("button", name="Submit")
    submit.wait_for()
    for help_text in ("tokens a text is cut to", "rows in a global batch", "gain over the champion that a promotion needs"):
        assert page.get_by_text(help_text).count() == 1
    assert page.get_by_text("secret key").count() == 0
    page.locator("input").first.fill("from-the-browser")
    page.locator("textarea").first.fill("clicked")
    page.screenshot(path=SCREENSHOTS / "form.png", full_page=True)
    submit.click()

    run = stack.wait_for_run(lambda run: run["name"] == "from-the-browser", states={"COMPLETED", "FAILED", "CRASHED"})
    assert run["state_type"] == "COMPLETED", run["state"]
    page.goto(f"{ui}/runs/flow-run/{run['id']}")
    page.get_by_text("Artifacts", exact=True).first.click()
    for artifact in ("metrics-clicked", "confusion-clicked", "decision-clicked"):
        page.get_by_text(artifact, exact=True).last.wait_for()
    page.screenshot(path=SCREENSHOTS / "artifacts.png", full_page=True)
    page.get_by_text("loss-clicked", exact=True).last.click()
    picture = page.locator("img").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    page.screenshot(path=SCREENSHOTS / "loss.png", full_page=True)
    assert foreign == []

    by_hand = stack.retrain("clicked-and-typed")
    assert {stack.show("clicked")["weights_sha256"], scheduled["weights_sha256"]} == {by_hand["weights_sha256"]}


def _leaves(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1", "data:", "blob:"))
