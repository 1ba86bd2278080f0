"""One HTML file that shows a selection without a server: the page's own bundle, and every answer it would ask for."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from eyas.errors import ConfigError, EyasError
from eyas.files import write_atomically
from eyas.problems import hint
from eyas.viewer.answers import Answers
from eyas.viewer.episodes import PARAMETERS
from eyas.viewer.server import STATIC, to_json

MAX_BYTES = 5_000_000
DEFAULT_EPISODES = 20  # a run
_UNRESERVED = "!'()*-._~"
_PAGE_PARTS = ("index.html", "assets/viewer.js", "assets/viewer.css")


def write_export(answers: Answers, path: Path, select: str = "") -> list[str]:
    """Writes the file, smaller than `MAX_BYTES`, and returns notes on what had to be left out.

    `select` is a query of the table of episodes, as in "stage=rl&sort=-return&limit=50". Raises `ConfigError` where no
    run is there, or the runs are too large even without pictures; `BadQuestion` for a query that cannot be used.
    """
    html, script, style = _read_page()
    data, pictures = collect(answers, select)
    room = MAX_BYTES - len(_page(html, script, style, data).encode()) - 1000  # the note's
    kept, dropped = _fit(pictures, room)
    notes = []
    if dropped:
        size = sum(len(pictures[key]) for key in dropped) / 1e6
        notes = [f"{len(dropped)} of {len(pictures)} pictures ({size:.1f} MB) were left out, the largest first"]
        data["note"] = notes[0]
    if room < 0:
        raise ConfigError(
            f"{path} would be larger than {MAX_BYTES / 1e6:.0f} MB without a single picture: choose fewer runs or "
            "episodes, as in --select 'limit=5'"
        )
    text = _page(html, script, style, data | kept)
    write_atomically(path, lambda file: file.write(text.encode()))
    return notes


def request_key(path: str, parameters: Mapping[str, str | list[str]]) -> str:
    """How the page writes a request: names in order, values as JavaScript's encodeURIComponent writes them."""
    pairs = [
        (name, value)
        for name, values in sorted(parameters.items())
        for value in (values if isinstance(values, list) else [values])
    ]
    query = "&".join(f"{name}={quote(value, safe=_UNRESERVED)}" for name, value in pairs)
    return f"{path}?{query}" if query else path


def collect(answers: Answers, select: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """The answers by request, and the pictures that they show as data URLs by request."""
    chosen = dict(parse_qsl(select, keep_blank_values=True))
    if unknown := [name for name in chosen if name not in PARAMETERS]:
        raise ConfigError(f"--select {unknown[0]}: unknown filter{hint(unknown[0], PARAMETERS)}")
    data: dict[str, Any] = {"/api/runs": answers.runs()}
    pictures: dict[str, str] = {}
    run_ids = [run["id"] for run in data["/api/runs"]["runs"]]
    if not run_ids:
        raise ConfigError("there is no run in the given folders: there is nothing to export")
    for run_id in run_ids:
        data |= _answers_of_run(answers, run_id)
        query = {"limit": str(DEFAULT_EPISODES)} | chosen
        table = answers.episodes(run_id, query)
        data[request_key("/api/episodes", {"run": run_id})] = table | {"total": len(table["rows"]), "facets": {}}
        for row in table["rows"]:
            episode = answers.episode(run_id, row["key"])
            data[request_key("/api/episode", {"run": run_id, "key": row["key"]})] = episode
            _add_pictures(answers, run_id, episode, pictures)
    if len(run_ids) > 1:
        data[request_key("/api/diff", {"runs": run_ids})] = answers.differences(run_ids)
    return data, pictures


def _answers_of_run(answers: Answers, run_id: str) -> dict[str, Any]:
    asked = {"run": run_id}
    metrics = {"records": [], "next": 0}
    while True:
        more = answers.metrics(run_id, metrics["next"])
        metrics = {"records": metrics["records"] + more["records"], "next": more["next"]}
        if not more["records"]:
            break
    return {
        request_key("/api/run", asked): answers.details(run_id),
        request_key("/api/metrics", asked): metrics,
        request_key("/api/thoughts", asked): answers.thoughts(run_id),
        request_key("/api/evaluations", asked): answers.evaluations(run_id),
    }


def _add_pictures(answers: Answers, run_id: str, episode: Mapping[str, Any], pictures: dict[str, str]) -> None:
    prompts = [step["messages"] for step in episode["steps"]] + [episode["final_messages"] or []]
    hashes = [part["image"] for messages in prompts for m in messages for part in m["parts"] if "image" in part]
    for image_hash in dict.fromkeys(hashes):
        key = request_key("/api/image", {"run": run_id, "hash": image_hash})
        try:
            if key not in pictures:
                png = base64.b64encode(answers.picture(run_id, image_hash)).decode()
                pictures[key] = f"data:image/png;base64,{png}"
        except EyasError:  # the page shows an episode without a picture that is not there
            continue


def _fit(pictures: Mapping[str, str], room: int) -> tuple[dict[str, str], list[str]]:
    """The smallest pictures that have room, and the keys of the others."""
    kept: dict[str, str] = {}
    for key in sorted(pictures, key=lambda key: len(pictures[key])):
        cost = len(to_json({key: pictures[key]}))
        if cost > room:
            break
        room -= cost
        kept[key] = pictures[key]
    return kept, [key for key in pictures if key not in kept]


# ----------------------------------------------------------------------------------------------- the page


def _read_page() -> tuple[str, str, str]:
    try:
        html, script, style = ((STATIC / part).read_text(encoding="utf-8") for part in _PAGE_PARTS)
    except OSError as error:
        raise ConfigError("the viewer's page is not part of this installation: install eyas again") from error
    return html, script, style


def _page(html: str, script: str, style: str, data: Mapping[str, Any]) -> str:
    """The page with its style, script and data inside. What a run recorded cannot end the element it stands in."""
    html = re.sub(r"<script\b[^>]*\bsrc=[^>]*></script>", "", html)
    html = re.sub(r"<link\b[^>]*rel=\"stylesheet\"[^>]*>", lambda _: f"<style>{style}</style>", html)
    stored = to_json(data).replace("<", "\\u003c")
    scripts = f'<script>window.__EYAS_EXPORT__ = {stored}</script>\n<script type="module">{script}</script>\n'
    return html.replace("</body>", scripts + "</body>")
