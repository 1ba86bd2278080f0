"""`eyas model list` and `eyas model check`."""

import json

import pytest
from typer.testing import CliRunner

from eyas.cli import app
from eyas.models.nano import build_nano

run = CliRunner().invoke


def test_the_list_names_built_in_models_and_what_each_family_supports():
    found = json.loads(run(app, ["model", "list", "--json"]).stdout)
    assert "nano-random" in found["built_in"]
    paligemma = next(f for f in found["families"] if "paligemma" in f["model_types"])
    assert not paligemma["supports"]["slots"] and paligemma["supports"]["feature cache"]
    assert "PaliGemma" in run(app, ["model", "list"]).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, processor = build_nano(hidden_size=32, intermediate_size=32, vision_hidden_size=16)
    folder = tmp_path_factory.mktemp("nano")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_good_model_passes_and_the_report_is_json(folder):
    result = run(app, ["model", "check", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["id"], report["ok"]) == (str(folder), True)
    assert set(report["checks"][0]) == {"name", "ok", "detail"}
    assert len(report["checks"]) > 20


def test_a_model_that_fails_is_shown_with_its_line_and_the_exit_code_is_1(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    settings = json.loads((broken / "processor_config.json").read_text())
    settings["image_seq_len"] -= 1  # a placeholder too few
    (broken / "processor_config.json").write_text(json.dumps(settings))
    result = run(app, ["model", "check", str(broken)])
    assert result.exit_code == 1
    assert "FAILED" in result.stdout and "Not usable yet: picture tokens" in result.stdout
