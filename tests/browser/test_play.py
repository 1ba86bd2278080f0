"""A person plays in the page, alone and in turn with a model; what was played is there as demonstrations afterwards."""

import os
import re
import signal
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from eyas.rollouts.datasets import dataset_info, load_trajectories

from .conftest import START_MS, OpenPage, Played

# NumberLine with seed 0: the number is 3, the target 5.


def begin(page: Page, seed: int = 0) -> None:
    page.get_by_label("Seed").fill(str(seed))
    with page.expect_response("**/api/play/do"):
        page.get_by_role("button", name="Begin r").click()
    expect(page.locator(".at")).to_have_text("0")
    expect(page.get_by_label("Seed")).to_have_value(str(seed))
    page.locator("main").focus()


def recorded(page: Page) -> int:
    """Episodes, as the page says."""
    text = page.locator(".standing div", has_text="Recorded in").inner_text()
    match = re.search(r"(\d+) episode", text)
    assert match is not None
    return int(match[1])


def latest(page: Page) -> Locator:
    """The last step in the list of those that were played."""
    return page.locator(".played li").first


def players(folder: Path) -> list[list[str]]:
    """Who executed each step of each recorded episode."""
    return [[step.executed_by.value for step in t.steps] for t in load_trajectories(folder)]


# ----------------------------------------------------------------------------------------------- a person alone


def test_an_episode_is_played_by_keyboard_to_its_end_and_recorded(open_page: OpenPage, alone: Played) -> None:
    page = open_page("#/play", base=alone.address)
    page.locator(".frame img").wait_for()
    assert page.locator(".frame img").evaluate("image => image.naturalWidth") == 300
    expect(page.locator(".message pre")).to_contain_text("Move the current number to the target number")
    begin(page)
    before = recorded(page)
    for step, (key, reward) in enumerate((("-", "−1"), ("+", "0"), ("+", "0"))):
        page.keyboard.press(key)
        expect(page.locator(".at")).to_have_text(str(step + 1))
        expect(latest(page)).to_contain_text("you")
        expect(latest(page).locator(".number")).to_have_text(reward)
    expect(page.locator(".over")).to_have_count(0)
    page.keyboard.press("+")
    expect(page.locator(".over")).to_contain_text("terminated")
    expect(page.locator(".standing")).to_contain_text("✗ no")  # one step led away
    expect(page.locator(".moves")).to_have_count(0)
    assert recorded(page) == before + 1
    last = load_trajectories(alone.folder)[-1]
    assert last.seed == 0 and [s.action_name for s in last.steps] == ["-", "+", "+", "+"]
    assert all(s.executed_by == "human" and s.completion.text.startswith("{") for s in last.steps)


def test_buttons_play_and_an_episode_that_is_left_is_kept_with_its_steps(open_page: OpenPage, alone: Played) -> None:
    page = open_page("#/play", base=alone.address)
    begin(page, 2)
    page.get_by_role("button", name="+", exact=True).click()
    expect(page.locator(".at")).to_have_text("1")
    before = recorded(page)
    page.get_by_role("button", name="Next episode").click()
    expect(page.locator(".at")).to_have_text("0")
    assert recorded(page) == before + 1
    last = load_trajectories(alone.folder)[-1]
    assert last.stop_reason == "interrupted" and last.final_messages is not None and len(last.steps) == 1


def test_what_was_played_can_be_looked_at_as_episodes(open_page: OpenPage, alone: Played) -> None:
    page = open_page("#/play", base=alone.address)
    begin(page)
    for step in range(2):
        page.keyboard.press("+")
        expect(page.locator(".at")).to_have_text(str(step + 1))
    expect(page.locator(".over")).to_be_visible()
    page.goto(alone.address + "#/episodes")
    page.reload()
    page.locator(".episodes tbody a").last.click()
    expect(page.locator(".parse")).to_contain_text("by human")


def test_reading_a_page_changes_nothing_in_a_play(open_page: OpenPage, alone: Played) -> None:
    page = open_page("#/play", base=alone.address)
    begin(page)
    page.keyboard.press("-")
    expect(page.locator(".at")).to_have_text("1")
    page.reload()
    expect(page.locator(".at")).to_have_text("1")
    expect(latest(page)).to_contain_text("you")


# ----------------------------------------------------------------------------------------------- with a model


def test_the_model_steps_the_person_takes_over_and_hands_back(open_page: OpenPage, together: Played) -> None:
    page = open_page("#/play", base=together.address)
    begin(page)
    said = page.locator(".said")
    expect(said).to_contain_text("Parsed")
    assert said.locator(".token").count() > 5
    first = said.locator(".written").all_text_contents()
    page.keyboard.press("a")
    expect(said).not_to_contain_text(first[-1])
    page.keyboard.press("s")
    expect(page.locator(".at")).to_have_text("1")
    expect(latest(page)).to_contain_text(re.compile("model|fallback"))
    page.keyboard.press("-")
    expect(page.locator(".at")).to_have_text("2")
    expect(latest(page)).to_contain_text("you")
    page.get_by_role("button", name="Step", exact=False).first.click()
    expect(page.locator(".at")).to_have_text("3")
    page.get_by_role("button", name="Next episode").click()
    expect(page.locator(".at")).to_have_text("0")
    by = players(together.folder)[-1]
    assert by[1] == "human" and by[0] in ("policy", "fallback") and by[2] in ("policy", "fallback")
    assert dataset_info(together.folder)["checkpoint"] == "nano-random"


def test_it_plays_by_itself_until_it_is_paused_or_the_person_acts(open_page: OpenPage, together: Played) -> None:
    page = open_page("#/play", base=together.address)
    begin(page, 3)
    page.get_by_label("Steps a second").select_option("20")
    page.locator("main").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator(".played li").nth(1)).to_be_visible()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Let it play")).to_be_visible()
    page.wait_for_load_state("networkidle")
    at = page.locator(".at").inner_text()
    page.wait_for_timeout(500)
    assert page.locator(".at").inner_text() == at
    if page.locator(".over").count():
        begin(page, 3)
    page.keyboard.press("Space")
    page.keyboard.press("-")
    expect(page.locator(".played")).to_contain_text("you")
    expect(page.get_by_role("button", name="Let it play")).to_be_visible()


def test_an_episode_that_the_model_played_alone_is_no_demonstration(open_page: OpenPage, together: Played) -> None:
    page = open_page("#/play", base=together.address)
    begin(page, 5)
    before = recorded(page)
    page.keyboard.press("s")
    expect(page.locator(".at")).to_have_text("1")
    begin(page, 5)
    assert recorded(page) == before


def test_at_temperature_zero_it_says_the_same_each_time(open_page: OpenPage, together: Played) -> None:
    page = open_page("#/play", base=together.address)
    begin(page, 7)

    def suggested() -> str:
        page.locator("main").focus()
        with page.expect_response("**/api/play/do") as answer:
            page.keyboard.press("a")
        return answer.value.json()["state"]["suggestion"]["completion_text"]

    page.get_by_label("Temperature").fill("1")
    assert len({suggested() for _ in range(5)}) > 1
    page.get_by_label("Temperature").fill("0")
    assert len({suggested() for _ in range(5)}) == 1
    expect(page.locator(".said .written").last).not_to_be_empty()


# ----------------------------------------------------------------------------------------------- failures


def test_words_are_played_and_a_process_that_dies_is_said_and_started_again(
    play_pendulum: Played, open_page: OpenPage
) -> None:
    page = open_page("#/play", base=play_pendulum.address)
    field = page.get_by_label("Your action in words")
    field.fill("left")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("'left' is no action here")
    field.fill("1.5")
    field.press("Enter")
    expect(latest(page)).to_contain_text("1.5")
    expect(page.get_by_role("alert")).to_have_count(0)
    os.kill(play_pendulum.player(), signal.SIGKILL)
    field.fill("-1")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("ended by signal 9")
    page.get_by_role("button", name="Start again").click()
    expect(page.locator(".at")).to_have_text("0", timeout=START_MS)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_page_of_a_server_without_a_play_offers_none(open_page: OpenPage, site: str) -> None:
    page = open_page("#/runs")
    expect(page.get_by_role("link", name="Play")).to_have_count(0)
    page.goto(site + "#/play")
    expect(page.get_by_role("alert")).to_contain_text("eyas play ENV")
