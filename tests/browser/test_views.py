"""Each view in both themes and two widths: what it shows, that it fits, and that axe-core finds nothing to say."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .conftest import OpenPage, Played, ask

CONVERSATION = "#/episode?run=maze-0&key=eval-rl-greedy_000000:0&step=5"
# A view, and what stands on it once its data is there.
VIEWS = {
    "runs": ("#/runs?run=maze-0&run=maze-1", "tr:has-text('maze-2')"),
    "curves": ("#/curves?run=maze-0&run=maze-1&run=maze-2", ".chart canvas"),
    "config": ("#/config?run=maze-0&against=maze-1", ".difference tr:has-text('seed')"),
    "episodes": ("#/episodes?run=maze-0", ".episodes tbody tr"),
    "episode": ("#/episode?run=maze-0&key={scored}", ".bars .chosen"),
    "conversation": (CONVERSATION, ".message.assistant"),
    "thoughts": ("#/thoughts?run=maze-0&iteration=3", ".examples li"),
    "evaluation": ("#/evaluation?run=maze-0", ".dot.own circle"),
}


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds against WCAG 2.2 AA and its best practices."""
    axe = importlib.util.find_spec("axe_playwright_python")
    assert axe is not None and axe.origin is not None, "axe-core is missing: type `pip install axe-playwright-python`"
    page.evaluate((Path(axe.origin).parent / "axe.min.js").read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", tags)
    return [
        {"rule": v["id"], "at": [n["target"] for n in v["nodes"]][:4], "why": v["nodes"][0]["failureSummary"]}
        for v in found["violations"]
    ]


def shoot(page: Page, name: str, folder: Path) -> None:
    """A screenshot to look at: in the folder EYAS_SCREENSHOTS where it is set."""
    page.screenshot(path=Path(os.environ.get("EYAS_SCREENSHOTS", folder)) / f"{name}.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_its_data_fits_its_window_and_passes_axe(
    view: str, theme: str, open_page: OpenPage, scored: dict[str, Any], tmp_path: Path
) -> None:
    address, sign = VIEWS[view]
    page = open_page(address.format(scored=scored["episode"]["key"]), theme=theme)
    page.locator(sign).first.wait_for()
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 860})
        page.wait_for_timeout(100)  # the charts follow the width
        shoot(page, f"{view}-{width}-{theme}", tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not violations(page), json.dumps(violations(page), indent=1)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 27)"}[theme]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_play_shows_what_the_model_sees_and_says_and_passes_axe(
    theme: str, open_page: OpenPage, together: Played, tmp_path: Path
) -> None:
    page = open_page("#/play", theme=theme, base=together.address)
    page.locator(".said .ramp").wait_for()
    page.get_by_role("button", name="-", exact=True).click()
    page.locator(".played li").first.wait_for()
    page.locator(".said .ramp").wait_for()
    for width in (1280, 800, 480):
        page.set_viewport_size({"width": width, "height": 860})
        shoot(page, f"play-{width}-{theme}", tmp_path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not violations(page), json.dumps(violations(page), indent=1)


def test_the_keys_dialog_passes_axe_opens_by_question_mark_and_closes_by_escape(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not violations(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_conversation_shows_every_message_of_the_prompt_in_order(open_page: OpenPage, site: str) -> None:
    page = open_page(CONVERSATION)
    answer = ask(site, "api/episode?run=maze-0&key=eval-rl-greedy_000000:0")
    prompt: list[dict[str, Any]] = []
    for step in answer["steps"][:6]:
        prompt = prompt[: step["prefix_messages"]] + step["messages"]
    expect(page.locator(".message")).to_have_count(len(prompt))
    shown = page.locator(".message pre").all_text_contents()
    assert shown == ["".join(part.get("text", "") for part in message["parts"]) for message in prompt]
    assert len(page.locator(".message.assistant").all()) == 5


def test_the_episode_shows_thought_action_probabilities_reward_value_and_advantage(
    open_page: OpenPage, scored: dict[str, Any]
) -> None:
    page = open_page(f"#/episode?run=maze-0&key={scored['episode']['key']}&step=1")
    step = scored["steps"][1]
    page.locator(".frame img").wait_for()
    assert page.locator(".frame img").evaluate("image => image.naturalWidth") > 0
    written = "".join(page.locator(".said .written").all_text_contents())
    assert written == "".join(token["text"] for token in step["tokens"])
    chosen = next(a for a in step["action_probabilities"] if a["is_chosen"])
    row = page.locator(".bars .chosen")
    assert chosen["name"] in row.inner_text()
    assert f"{chosen['probability']:.1%}".replace("%", " %") in row.inner_text()
    ledger = page.locator(".ledger").first.inner_text().replace("−", "-").replace("+", "")
    assert set(step["reward"]["terms"]) <= set(ledger.replace("\t", "\n").split("\n"))
    assert f"{step['advantage']:.4g}" in ledger
    page.get_by_label("colour by").select_option("none")
    expect(page.locator(".said .token")).to_have_count(0)
    assert step["thought"] in page.locator(".said").inner_text()
