"""What a person does: from the list of runs to a step of an episode, by pointer and by keyboard."""

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from .conftest import OpenPage, ask


def field(page: Page, label: str) -> Locator:
    """A choice by its exact label: Playwright takes the options for a part of it."""
    return page.locator(f"label.field:has(> span:text-is('{label}')) select")


def test_selected_runs_are_compared_with_their_seeds_as_a_band(open_page: OpenPage) -> None:
    page = open_page()
    for name in ("maze-0", "maze-1"):
        page.get_by_label(f"Select {name}").check()
    page.get_by_role("button", name="Compare 2").click()
    expect(page.get_by_role("heading", name="Curves")).to_be_visible()
    expect(page.locator(".legend")).to_contain_text("maze, 2 seeds")
    page.get_by_role("button", name="Add 1 other seed").click()
    expect(page.locator(".legend")).to_contain_text("maze, 3 seeds")
    page.get_by_label("seeds as a band").uncheck()
    expect(page.locator(".legend li")).to_have_count(3)
    page.get_by_role("link", name="Take maze-1 out").click()
    expect(page.locator(".legend li")).to_have_count(2)


def test_a_band_is_the_mean_of_its_seeds(open_page: OpenPage, site: str) -> None:
    page = open_page("#/curves?run=maze-0&run=maze-1&run=maze-2")
    name = "rollout/return_mean"
    last = [ask(site, f"api/metrics?run=maze-{seed}")["records"][-1][name] for seed in range(3)]
    chart = page.locator(f".chart:has(figcaption:text-is('{name}')) [role=img]")
    mean = f"{sum(last) / 3:.4g}".replace("-", "−")
    expect(chart).to_have_attribute("aria-label", re.compile(rf" {re.escape(mean)}$"))  # once all seeds are read


def test_axis_smoothing_and_scale_stand_in_the_address_and_survive_a_reload(open_page: OpenPage) -> None:
    page = open_page("#/curves?run=maze-0")
    field(page, "By").select_option("num_env_steps")
    page.get_by_label("log scale").check()
    page.get_by_label("Smoothing").fill("0.6")
    page.reload()
    expect(field(page, "By")).to_have_value("num_env_steps")
    expect(page.get_by_label("log scale")).to_be_checked()
    expect(page.get_by_label("Smoothing")).to_have_value("0.6")
    expect(page.locator(".chart [role=img]").first).to_have_attribute("aria-label", re.compile("environment steps"))


def test_the_table_shows_what_the_filters_choose(open_page: OpenPage, site: str) -> None:
    page = open_page("#/episodes?run=maze-0")
    counted = page.locator(".count[role=status] strong")
    page.get_by_label("Success").select_option("true")
    won = ask(site, "api/episodes?run=maze-0&success=true")["total"]
    expect(counted).to_have_text(f"{won} episodes")
    page.get_by_label("Parse failures").select_option("some")
    both = ask(site, "api/episodes?run=maze-0&success=true&has_parse_failure=true")["total"]
    assert 0 < both < won
    expect(counted).to_have_text(re.compile(f"^{both} episodes?$"))
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Iteration at least").fill("2")
    page.get_by_label("Iteration at most").fill("3")
    page.get_by_role("button", name="Return").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Return")
    expect(counted).to_have_text("50 episodes")
    shown = [float(text) for text in page.locator(".episodes td:nth-child(6)").all_text_contents()]
    assert len(shown) == 50 and shown == sorted(shown, reverse=True)


def test_a_search_in_thoughts_opens_the_step_that_says_it(open_page: OpenPage, scored: dict[str, Any]) -> None:
    step = scored["steps"][2]
    page = open_page("#/episodes?run=maze-0")
    page.keyboard.press("/")
    page.keyboard.type(step["thought"].upper())
    row = page.locator(".episodes tbody a", has_text=scored["episode"]["key"])
    expect(page.locator(".count[role=status] strong")).to_have_text("1 episode")
    row.click()
    expect(page.locator(".at")).to_contain_text(f"Step {step['step']} ")


def test_the_pages_of_the_table_turn_by_key(open_page: OpenPage) -> None:
    page = open_page("#/episodes?run=maze-0")
    first = page.locator(".episodes tbody a").first
    expect(page.locator(".episodes tbody tr")).to_have_count(100)
    before = first.inner_text()
    page.keyboard.press("]")
    expect(page.locator(".pager").first).to_contain_text("2 of 2")
    expect(page.locator(".episodes tbody tr")).to_have_count(52)
    page.keyboard.press("[")
    expect(first).to_have_text(before)


def slow(page: Page, path: str) -> None:
    """Answers to these requests take their time from now on."""

    def later(route: Route) -> None:
        page.wait_for_timeout(600)
        route.continue_()

    page.route(re.compile(f"/api/{path}(\\?|$)"), later)


def test_keys_pressed_while_a_view_is_still_read_are_not_lost(open_page: OpenPage, scored: dict[str, Any]) -> None:
    page = open_page()
    root = page.url.split("#")[0]
    slow(page, "episode")
    page.goto(f"{root}#/episode?run=maze-0&key={scored['episode']['key']}")
    expect(page.get_by_text("Reading the episode")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".at")).to_contain_text("Step 2 ")
    slow(page, "runs")
    page.goto(f"{root}#/episodes?run=maze-0")
    page.reload(wait_until="commit")
    page.locator("header nav").wait_for()
    page.keyboard.press("/")
    expect(page.get_by_label("Search in thoughts")).to_be_focused()


def test_a_key_pressed_on_another_view_does_nothing_later(open_page: OpenPage) -> None:
    page = open_page("#/config?run=maze-0")
    page.locator(".toml").wait_for()
    page.keyboard.press("/")
    page.keyboard.press("4")
    page.locator(".episodes tbody tr").first.wait_for()
    expect(page.get_by_label("Search in thoughts")).not_to_be_focused()


def test_arrow_keys_step_and_the_address_leads_back_to_the_step(open_page: OpenPage, scored: dict[str, Any]) -> None:
    page = open_page(f"#/episode?run=maze-0&key={scored['episode']['key']}")
    at = page.locator(".at")
    expect(at).to_contain_text("Step 0 ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(at).to_contain_text("Step 2 ")
    assert page.url.endswith("step=2")
    page.keyboard.press("ArrowLeft")
    expect(at).to_contain_text("Step 1 ")
    page.reload()
    expect(at).to_contain_text("Step 1 ")
    page.keyboard.press("End")
    expect(at).to_contain_text(f"Step {scored['steps'][-1]['step']} ")
    page.keyboard.press("Home")
    expect(at).to_contain_text("Step 0 ")


def test_space_plays_the_episode_to_its_end_and_pauses_it(open_page: OpenPage) -> None:
    page = open_page("#/episode?run=maze-0&key=eval-rl-greedy_000000:0")
    page.get_by_label("Speed").select_option("8")
    page.locator("main").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.keyboard.press("Space")
    expect(page.locator(".at")).to_contain_text("Step 7 of 7")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_the_episodes_of_the_list_follow_each_other_under_its_filters(open_page: OpenPage) -> None:
    page = open_page("#/episodes?run=maze-0&has_parse_failure=true")
    page.locator(".episodes tbody a").first.wait_for()
    keys = page.locator(".episodes tbody a").all_text_contents()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", level=1)
    for key in (keys[0], keys[1]):
        expect(heading).to_contain_text(key)
        page.locator(".at").wait_for()
        expect(page.get_by_role("link", name="Next episode")).to_have_attribute("href", re.compile("episode"))
        page.keyboard.press("]")
    expect(heading).to_contain_text(keys[2])


def controls(page: Page) -> list[str]:
    """Every control that can be seen and used, by its place in the page."""
    return page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
            .filter(e => !e.disabled && e.tabIndex >= 0 && e.checkVisibility() && !e.closest("[hidden]"))
            .map((e, i) => (e.dataset.place = String(i)))"""
    )


def test_every_control_of_every_view_is_reached_by_tab_with_a_visible_focus(open_page: OpenPage) -> None:
    page = open_page("#/runs")
    for view in ("runs", "curves", "config", "episode", "thoughts", "evaluation"):
        page.goto(page.url.split("#")[0] + f"#/{view}?run=maze-0&key=eval-rl-greedy_000000:0")
        page.locator("main h1").wait_for()
        page.wait_for_load_state("networkidle")
        wanted = set(controls(page))
        reached = set()
        page.evaluate("document.activeElement.blur()")
        for _ in range(2 * len(wanted) + 5):
            page.keyboard.press("Tab")
            place, outline = page.evaluate(
                """() => { const e = document.activeElement; const seen = e.closest(".strip") ?? e;
                    return [e.dataset.place, getComputedStyle(seen).outlineStyle]; }"""
            )
            if place is not None:
                assert outline != "none", f"{view}: the control {place} has the focus and does not show it"
                reached.add(place)
            if wanted <= reached:
                break
        assert wanted <= reached, f"{view}: {len(wanted - reached)} controls are out of reach"


def test_digits_go_to_the_views_and_letters_typed_in_a_field_stay_there(open_page: OpenPage) -> None:
    page = open_page()
    for key, name in (
        ("2", "Curves"),
        ("3", "Configuration"),
        ("4", "Episodes"),
        ("5", "Thoughts"),
        ("6", "Evaluation"),
    ):
        page.keyboard.press(key)
        expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("1d2?x")
    expect(page.get_by_label("Search runs")).to_have_value("1d2?x")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_theme_follows_the_system_until_it_is_chosen_and_is_kept(open_page: OpenPage) -> None:
    page = open_page(theme="dark")
    shown = page.locator("html")
    expect(shown).to_have_attribute("data-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(shown).to_have_attribute("data-theme", "light")
    page.keyboard.press("d")
    page.keyboard.press("d")
    expect(shown).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(shown).to_have_attribute("data-theme", "dark")


def test_markup_in_what_a_run_recorded_is_shown_as_text(open_page: OpenPage, scored: dict[str, Any]) -> None:
    markup = "<img src=x onerror='window.wasRun=1'><script>window.wasRun=1</script><b>bold</b>"
    page = open_page("#/runs")

    def inject(route: Route) -> None:
        answer = route.fetch().json()
        for step in answer["steps"]:
            step |= {"thought": markup, "tokens": None, "completion_text": markup, "action_name": markup}
            step["messages"] = [{"role": markup, "parts": [{"text": markup}]}]
            step |= {"facts_truth": {markup: markup}, "legal_actions": [markup], "action_probabilities": None}
        route.fulfill(json=answer)

    page.route(re.compile("/api/episode\\?"), inject)
    page.goto(page.url.split("#")[0] + f"#/episode?run=maze-0&key={scored['episode']['key']}")
    expect(page.locator("p.thought")).to_have_text(markup)
    expect(page.locator(".message pre")).to_have_text(markup)
    assert page.locator("main :is(script, b)").count() == 0
    assert page.evaluate("window.wasRun") is None


def test_a_running_run_is_followed(open_page: OpenPage, runs: Path) -> None:
    page = open_page("#/runs")

    def as_running(route: Route) -> None:
        answer = route.fetch().json()
        for run in answer["runs"]:
            run["state"] = "running"
        route.fulfill(json=answer)

    page.route(re.compile("/api/runs$"), as_running)
    page.goto(page.url.split("#")[0] + "#/curves?run=maze-2")
    page.reload()
    chart = page.locator(".chart:has(figcaption:text-is('rollout/return_mean')) [role=img]")
    chart.wait_for()
    metrics = runs / "maze-2" / "metrics.jsonl"
    before = metrics.read_text()
    record = json.loads(before.splitlines()[-1])
    record |= {"iteration": record["iteration"] + 1, "rollout/return_mean": 123.5}
    try:
        with metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        expect(chart).to_have_attribute("aria-label", re.compile(r"123\.5$"))
    finally:
        metrics.write_text(before)


def test_a_server_that_went_away_is_said_and_not_a_blank_page(open_page: OpenPage) -> None:
    page = open_page("#/runs")
    body = json.dumps({"error": "there is no such episode: go back"})
    page.evaluate("() => { window.fetch = async () => { throw new TypeError('gone'); }; }")
    page.goto(page.url.split("#")[0] + "#/episodes?run=maze-0")
    expect(page.get_by_role("alert").first).to_contain_text("eyas view")
    page.evaluate("body => { window.fetch = async () => new Response(body, {status: 404}); }", body)
    page.goto(page.url.split("#")[0] + "#/episode?run=maze-0&key=x:1")
    expect(page.get_by_role("alert").first).to_contain_text("there is no such episode")


def test_an_exported_file_shows_its_episodes_without_a_server(open_page: OpenPage, runs: Path, tmp_path: Path) -> None:
    from eyas.viewer.answers import Answers
    from eyas.viewer.export import write_export
    from eyas.viewer.folders import Library

    answers = Answers(Library([runs]))
    file = tmp_path / "some.html"
    write_export(answers, file, "stage=rl&limit=12")
    answers.close()
    page = open_page("", base=file.as_uri())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(page.locator("header")).to_contain_text("exported file")
    page.keyboard.press("4")
    expect(page.locator(".episodes tbody tr")).to_have_count(12)
    page.locator(".episodes tbody a").first.click()
    page.locator(".frame img").wait_for()
    assert page.locator(".frame img").evaluate("image => image.naturalWidth") > 0
    for key, sign in (("2", ".chart canvas"), ("3", ".toml"), ("5", ".examples"), ("6", ".ladder")):
        page.keyboard.press(key)
        page.locator(sign).first.wait_for()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_tokens_are_coloured_by_what_was_recorded_of_them(open_page: OpenPage, scored: dict[str, Any]) -> None:
    page = open_page()
    numbers = {"learner_logprob": 0.0, "ratio": 1.3, "advantage": -3.0}
    has_numbers = {"all": False}

    def inject(route: Route) -> None:
        answer = route.fetch().json()
        for token in (token for step in answer["steps"] for token in step["tokens"]):
            for name, value in numbers.items():
                token[name] = value if has_numbers["all"] else None
        route.fulfill(json=answer)

    page.route(re.compile("/api/episode\\?"), inject)
    address = page.url.split("#")[0] + f"#/episode?run=maze-0&key={scored['episode']['key']}"
    page.goto(address)
    choice = page.get_by_label("colour by")
    disabled = choice.locator("option:disabled")
    expect(disabled).to_have_text(["sampler–learner gap", "advantage", "ratio"])
    has_numbers["all"] = True
    page.reload()
    expect(disabled).to_have_count(0)
    for name, shade in (("ratio", "above-3"), ("advantage", "below-4"), ("gap", "above")):
        choice.select_option(name)
        expect(page.locator(".said .written .token").first).to_have_class(re.compile(f"token {shade}"))
        assert f"colour={name}" in page.url
    page.reload()
    expect(choice).to_have_value("gap")
    page.locator("main").focus()
    page.keyboard.press("l")
    expect(choice).to_have_value("advantage")


def test_a_warning_says_what_to_try_and_leads_to_its_point_of_the_curves(open_page: OpenPage) -> None:
    page = open_page("#/thoughts?run=maze-0")
    warning = page.locator(".warnings li").first
    expect(warning.locator("strong")).to_have_text("template")
    expect(warning).to_contain_text("depend less and less on what is seen")
    expect(warning).to_contain_text("Try algorithm.more_groups")
    link = warning.get_by_role("link")
    iteration = link.inner_text().removeprefix("Iteration ")
    expect(page.get_by_role("heading", name=f"Iteration {iteration}", exact=True)).to_have_count(0)
    link.click()
    expect(page.get_by_role("heading", name=f"Iteration {iteration}", exact=True)).to_be_visible()
    expect(page.get_by_label("Examples from iteration")).to_have_value(iteration)


def test_a_checkpoint_is_played_by_a_command_to_copy(open_page: OpenPage, runs: Path, scored: dict[str, Any]) -> None:
    page = open_page("#/config?run=maze-0")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    field(page, "Checkpoint").select_option("sft")
    command = f"eyas play eyas/FrozenLake-v0 --checkpoint {runs}/maze-0/checkpoints/sft"
    expect(page.locator(".copied code")).to_have_text(command)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.goto(page.url.split("#")[0] + f"#/episode?run=maze-0&key={scored['episode']['key']}")
    expect(page.locator(".command")).to_contain_text(f"seed {scored['episode']['seed']} ")


def test_the_films_of_a_run_are_listed_and_shown(open_page: OpenPage, runs: Path) -> None:
    page = open_page("#/evaluation?run=maze-1")
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("heading", name="Films")).to_have_count(0)
    films = runs / "maze-1" / "films"
    films.mkdir()
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    for name in ("early.gif", "late.webp"):
        frames[0].save(films / name, save_all=True, append_images=frames[1:])
    page.reload()
    film = page.locator(".films img")
    for name in ("late.webp", "early.gif"):
        field(page, "Film").select_option(name)
        expect(film).to_have_attribute("alt", re.compile(re.escape(name)))
        expect(film).to_have_js_property("naturalWidth", 40)
