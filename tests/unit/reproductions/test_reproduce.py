"""`eyas reproduce`: runs that finish, fail, are interrupted and go on; and the page that they make."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eyas.cli import app
from eyas.errors import ConfigError
from eyas.reproductions import load_definition, plan, running
from eyas.reproductions.figure import write_figure
from eyas.reproductions.page import write_page
from helpers_reproductions import DEFINITION, definition, fake_train, record, seeds


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a definition, where `eyas train` is a stand-in."""
    monkeypatch.setattr(running, "TRAIN", fake_train(tmp_path))
    monkeypatch.setattr(running, "POLL_S", 0.02)
    (tmp_path / "tiny.toml").write_text(DEFINITION)
    return tmp_path


def reproduce(place: Path, *options: str):
    folders = ["--output", str(place / "pages"), "--runs", str(place / "runs")]
    return CliRunner().invoke(app, ["reproduce", str(place / "tiny.toml"), *folders, *options])


def calls(place: Path, run: str) -> str:
    return (place / "runs" / run / "calls").read_text()


def with_arm(place: Path, name: str) -> None:
    (place / "tiny.toml").write_text(
        DEFINITION.replace('name = "other"', f'name = "{name}"').replace('"other"', f'"{name}"')
    )


# ----------------------------------------------------------------------------------------------- running


def test_all_is_run_once_and_the_page_says_what_was_found(place):
    result = reproduce(place, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["failed"] == {}
    assert [s["finding"] for s in found["statements"]] == ["for", "undecided"]
    page = (place / "pages/tiny.md").read_text()
    assert (
        "| every arm | sft | T = 1 | 40.0 (43.0–57.0) | 41.0 (43.0–57.0) | 42.0 (43.0–57.0) | 41.0 (38.5–43.5) |"
        in page
    )
    assert "- **For.** RL beats its start: 61.0 % (plain rl) against 41.0 % (plain sft), difference 20.0" in page
    assert "![" in page and (place / "pages/tiny/figure.png").stat().st_size > 5000
    assert "Command: `eyas reproduce tiny`." in page
    assert {p.name for p in (place / "pages/tiny").glob("*.json")} == {
        f"{a}_{s}.json" for a in ("plain", "other") for s in range(3)
    }
    again = reproduce(place)
    assert again.exit_code == 0
    assert calls(place, "tiny-plain-0") == "begun "
    assert (place / "pages/tiny.md").read_text() == page


def test_a_failed_arm_is_reported_and_the_others_go_on(place):
    with_arm(place, "broken")
    result = reproduce(place, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["failed"]["broken-1"] == "error: the engine stalled"
    assert [s["finding"] for s in found["statements"]] == ["for", "unknown"]
    page = (place / "pages/tiny.md").read_text()
    assert "- `broken`, seed 2: error: the engine stalled" in page
    assert "- **Unknown.** The other ends above: not every seed has these numbers." in page
    assert "failed: `broken`, seed 0: error: the engine stalled" in result.stderr
    reproduce(place)
    assert calls(place, "tiny-broken-0") == "begun resumed "
    assert calls(place, "tiny-plain-0") == "begun "


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_runs_and_they_go_on_afterwards(place, how):
    with_arm(place, "slow")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may have it ignored
        "from eyas.reproductions import running; from eyas.cli import main;"
        f"running.TRAIN = {running.TRAIN!r}; running.POLL_S = 0.02; main()"
    )
    folders = ["--output", str(place / "pages"), "--runs", str(place / "runs"), "--seeds", "0"]
    process = subprocess.Popen([sys.executable, "-c", code, "reproduce", str(place / "tiny.toml"), *folders])
    waits, finished = place / "runs/tiny-slow-0/waits", place / "runs/tiny-plain-0" / running.ATTEMPTS
    while not (waits.exists() and finished.exists()):
        time.sleep(0.02)
        assert process.poll() is None
    with pytest.raises(ConfigError, match="at work"):  # the folder is taken
        running.run_all(plan(load_definition(str(place / "tiny.toml")), place / "runs"), 1, 1, lambda *_: None)
    process.send_signal(how)
    assert process.wait(timeout=20) == 130
    assert not (place / "pages/tiny.md").exists()
    result = reproduce(place, "--seeds", "0")
    assert result.exit_code == 0, result.output
    assert calls(place, "tiny-slow-0") == "begun resumed "
    assert calls(place, "tiny-plain-0") == "begun "
    attempts = (place / "runs/tiny-slow-0" / running.ATTEMPTS).read_text().splitlines()
    assert [json.loads(a)["is_finished"] for a in attempts] == [False, True]


def test_a_folder_with_another_configuration_is_refused(place):
    assert reproduce(place).exit_code == 0
    (place / "tiny.toml").write_text(DEFINITION.replace("thought_weight=0.5", "thought_weight=0.7"))
    result = reproduce(place)
    assert isinstance(result.exception, ConfigError)
    assert "holds a run of another configuration: remove it" in str(result.exception)
    assert "tiny-other-0" in str(result.exception)


def test_every_process_has_one_thread_at_laptop_scale(place):
    script = place / "fake_train.py"
    script.write_text(f"import os; print(os.environ['OMP_NUM_THREADS'])\n{script.read_text()}")
    assert reproduce(place, "--seeds", "0").exit_code == 0
    assert (place / "runs/tiny-plain-0.log").read_text() == "1\n"


def test_a_quick_run_keeps_away_from_the_real_one(place):
    result = reproduce(place, "--quick")
    assert result.exit_code == 0, result.output
    assert "say nothing of the claim" in (place / "pages/tiny_quick.md").read_text()
    assert not (place / "pages/tiny.md").exists()
    assert not (place / "runs/tiny-plain-0").exists()


def test_a_dry_run_prints_what_would_be_run_and_runs_nothing(place):
    result = reproduce(place, "--dry-run", "--scale", "paper")
    assert result.exit_code == 0
    assert "some/model, lora" in result.stdout
    assert "6 runs: 2 arms, seeds 0, 1, 2" in result.stdout
    assert not (place / "runs").exists() and not (place / "pages").exists()


@pytest.mark.parametrize("seeds", ["", "a", "1,1", "1,-2", "0.5"])
def test_bad_seeds_say_what_to_type(place, seeds):
    result = reproduce(place, "--seeds", seeds)
    assert "as in 0,1,2" in str(result.exception)


def test_seeds_of_ones_own_are_said_on_the_page(place):
    assert reproduce(place, "--seeds", "5,6").exit_code == 0
    page = (place / "pages/tiny.md").read_text()
    assert "--seeds 5,6`. The seeds are not those fixed beforehand, 0, 1, 2." in page
    assert "| seed 5 | seed 6 |" in page


def test_the_page_can_be_written_again_from_its_records_alone(place):
    assert reproduce(place).exit_code == 0
    page = place / "pages/tiny.md"
    text = page.read_text()
    page.unlink()
    (place / "pages/tiny/remarks.md").write_text("Settings were chosen on other seeds.\n")
    assert reproduce(place, "--page-only", "--runs", str(place / "nowhere")).exit_code == 0
    assert page.read_text().replace("Settings were chosen on other seeds.\n\n", "") == text


def test_no_torch_is_loaded_to_plan():
    code = (
        "import sys, eyas.cli, eyas.reproductions.page, eyas.reproductions.running; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------- the page


def test_arms_with_equal_numbers_share_a_line_and_others_do_not(tmp_path):
    records = [record(arm, seed, 0.1, 0.2 + (arm == "other") / 2) for arm in ("plain", "other") for seed in (0, 1, 2)]
    page = write_page(definition(), records, {}, seeds(0, 1, 2), tmp_path).read_text()
    lines = [line for line in page.splitlines() if "| T = 1 |" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| every arm", "| plain", "| other"]
    assert "Undecided" not in page and "Of 2 statements: 2 for." in page
    assert "| `rollout/thought_unique_share`, last 2 | plain | 60.0 | 60.0 | 60.0 | 60.0 (60.0–60.0) |" in page
    assert (
        "Wall minutes a run: plain 1.0, other 1.0. CPU minutes a run: plain 0.5, other 0.5; in all 0.05 core-hours of 0.5"
        in page
    )
    assert "Commit cccccccccccc. Hardware: a CPU, 2 cores" in page


def test_a_mean_over_seeds_is_unknown_where_one_is_missing(tmp_path):
    page = write_page(definition(), [record("plain", 0, 0.1, 0.2)], {}, seeds(0, 1), tmp_path).read_text()
    assert "| plain | rl | T = 1 | 20.0 (43.0–57.0) | – | – |" in page
    assert page.count("**Unknown.**") == 2


def test_an_arm_may_have_seeds_of_its_own_and_a_statement_pairs_those_that_both_arms_have(tmp_path):
    arms = [arm.model_dump() | ({"seeds": (0, 1, 2)} if arm.name == "other" else {}) for arm in definition().arms]
    defined = definition(seeds=[0, 1], arms=arms)
    assert [(j.arm, j.seed) for j in plan(defined, tmp_path)][-1] == ("other", 2)
    records = [record("plain", 0, 0.1, 0.2), record("plain", 1, 0.1, 0.2)]
    records += [record("other", seed, 0.1, 0.3 + 0.3 * (seed == 2)) for seed in (0, 1, 2)]
    page = write_page(defined, records, {}, defined.seeds_of_arms, tmp_path).read_text()
    assert "Seeds: 2 of plain; 3 of other." in page and "--seeds" not in page
    assert "| plain | rl | T = 1 | 20.0 (43.0–57.0) | 20.0 (43.0–57.0) |  | 20.0 (20.0–20.0) |" in page
    assert "| other | rl | T = 1 | 30.0 (43.0–57.0) | 30.0 (43.0–57.0) | 60.0 (43.0–57.0) | 40.0 (" in page
    assert "30.0 % (other rl) against 20.0 % (plain rl), difference 10.0" in page  # without seed 2


def test_the_interval_of_a_share_ends_at_0_and_1(tmp_path):
    records = [record("plain", seed, 0.1, rl) for seed, rl in enumerate((1.0, 1.0, 0.9))]
    page = write_page(definition(), records, {}, seeds(0, 1, 2), tmp_path).read_text()
    assert "96.7 (82.3–100.0)" in page  # Student's would end at 111.0


def test_a_page_without_any_run_still_says_what_failed(tmp_path):
    page = write_page(definition(), [], {"`plain`, seed 0": "no disk"}, seeds(0), tmp_path).read_text()
    assert "- `plain`, seed 0: no disk" in page
    assert not write_figure(definition(), [], tmp_path / "figure.png")


def test_a_figure_has_the_panels_that_there_is_something_for(tmp_path):
    from PIL import Image

    records = [record("plain", seed, 0.1, 0.2) for seed in (0, 1)]
    assert write_figure(definition(), records, tmp_path / "three.png")
    bare = [record("plain", 0, 0.1, 0.2, curves={}, compute={})]
    assert write_figure(definition(), bare, tmp_path / "one.png")
    three, one = (Image.open(tmp_path / f"{name}.png").size for name in ("three", "one"))
    assert three[0] == 3 * one[0]


# ----------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
def test_a_quick_run_really_trains(tmp_path):
    text = DEFINITION[: DEFINITION.index("[[arms]]", DEFINITION.index("[[arms]]") + 1)]
    (tmp_path / "tiny.toml").write_text(text + 'set = ["tasks.0.env_args.jitter=2"]\n')
    result = reproduce(tmp_path, "--quick", "--json")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "pages/tiny_quick.md").read_text()
    assert "| plain | sft_continued | greedy |" in page
    assert (tmp_path / "pages/tiny_quick/figure.png").exists()
    assert (tmp_path / "runs/tiny_quick-plain-0/checkpoints/rl").is_dir()
