"""Served models: what is sent, what comes back, what is tried again, what stops a run, and where the key goes."""

import json
import logging
import re
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import eyas
from eyas.cli import app
from eyas.config import InterfaceConfig, TaskConfig
from eyas.errors import ConfigError, EnvironmentFailure, ModelError
from eyas.interface.formats import JSON_STOP
from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.openai import MOST_REFUSED, ServedSampler
from eyas.types import (
    ActionChoice,
    Completion,
    FailureReason,
    FinishReason,
    Message,
    ParseFailure,
    SampleRequest,
    StopReason,
    TextPart,
)
from helpers import json_format, picture, prompt
from helpers_served import FakeServer, Reply, completion, pictures, said

KEY = "sk-a-secret-1234567890"
BUSY = Reply(429, {"error": {"message": "slow down"}})
PLUS = '{"thoughts": "up", "action": "+"}'


def sampler(server: FakeServer, images: MemoryImageStore | None = None, **options: Any) -> ServedSampler:
    return ServedSampler("a-model", server.url, images or MemoryImageStore(), **{"sleep": lambda s: None} | options)


def ask(text: str = "Go.", **options: Any) -> SampleRequest:
    return SampleRequest(prompt(text), 0, **options)


def in_turn(*answers: "str | Reply") -> Callable[[dict[str, Any]], "str | Reply"]:
    """Each answer once, the last one for ever."""
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


# ----------------------------------------------------------------------------------------------- what is sent


def test_a_request_says_model_limits_and_seed() -> None:
    with FakeServer(lambda body: "yes") as server:
        request = SampleRequest(prompt("Go."), 2**40 + 5, 17, 0.25)
        sampler(server).sample([request])
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [
        {
            "model": "a-model",
            "messages": [{"role": "user", "content": "Go."}],
            "temperature": 0.25,
            "max_tokens": 17,
            "seed": 5,
        }
    ]


def test_pictures_arrive_pixel_for_pixel_between_their_texts() -> None:
    images = MemoryImageStore()
    first, second = picture(1, 33, 47), picture(2, 5, 8)
    parts = (*prompt("look", images.put(first))[0].parts, *prompt("and", images.put(second))[0].parts)
    with FakeServer(lambda body: "yes") as server:
        sampler(server, images).sample([SampleRequest((Message("user", parts),), 0)])
    (body,) = server.bodies
    assert [p["type"] for p in body["messages"][0]["content"]] == ["image_url", "text", "image_url", "text"]
    for sent, shown in zip(pictures(body), (first, second), strict=True):
        np.testing.assert_array_equal(sent, shown)


def test_an_earlier_answer_is_sent_as_the_text_of_its_completion() -> None:
    answer = Message("assistant", (TextPart("not this"),), Completion("left"))
    with FakeServer(lambda body: "yes") as server:
        sampler(server).sample([SampleRequest((*prompt("one"), answer, *prompt("two")), 0)])
    assert server.bodies[0]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "left"},
        {"role": "user", "content": "two"},
    ]


def test_request_fields_are_added_and_empty_ones_leave_a_field_out() -> None:
    fields = {"max_tokens": "", "temperature": None, "max_completion_tokens": 500, "seed": 0}
    with FakeServer(lambda body: "yes") as server:
        sampler(server, fields=fields).sample([ask()])
    assert server.bodies[0].keys() == {"model", "messages", "max_completion_tokens", "seed"}
    assert (server.bodies[0]["max_completion_tokens"], server.bodies[0]["seed"]) == (500, 0)


def test_answers_keep_the_order_of_the_requests_whichever_comes_first() -> None:
    def slow_first(body: dict[str, Any]) -> str:
        time.sleep(0.03 if said(body) in ("0", "5") else 0)
        return said(body)

    with FakeServer(slow_first) as server:
        completions = sampler(server, concurrency=4).sample([ask(str(i)) for i in range(20)])
    assert [c.text for c in completions] == [str(i) for i in range(20)]


def test_as_many_requests_as_allowed_are_under_way_together_and_no_more() -> None:
    meeting = threading.Barrier(3, timeout=5)  # fewer than three together would break it

    def wait_for_others(body: dict[str, Any]) -> str:
        meeting.wait()
        return "yes"

    with FakeServer(wait_for_others) as server:
        sampler(server, concurrency=3).sample([ask() for _ in range(9)])
    assert server.most_together == 3


# ----------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("text", "finish", "kept", "reason"),
    [
        ('{"action": "+"} and more {"a": 1}', "length", '{"action": "+"}', FinishReason.STOP),
        ('{"a": {"b": "}"}, "action": "+"}', "stop", '{"a": {"b": "}"}, "action": "+"}', FinishReason.STOP),
        ('{"action": "', "length", '{"action": "', FinishReason.LENGTH),
        ("no object", "stop", "no object", FinishReason.END_TOKEN),
        ("", "stop", "", FinishReason.END_TOKEN),
        (None, "length", "", FinishReason.LENGTH),
    ],
)
def test_text_is_cut_where_it_is_first_complete(text: str | None, finish: str, kept: str, reason: FinishReason) -> None:
    with FakeServer(lambda body: completion(text, finish)) as server:
        (made,) = sampler(server).sample([ask(stop=JSON_STOP)])
    assert (made.text, made.finish_reason) == (kept, reason)
    assert made.token_ids is made.sampling_logprobs is None


def test_an_empty_text_is_a_parse_failure_like_any_other() -> None:
    with FakeServer(lambda body: "") as server:
        (made,) = sampler(server).sample([ask()])
    parsed = json_format("+", "-").parse(made)
    assert isinstance(parsed, ParseFailure) and parsed.reason is FailureReason.EMPTY


MALFORMED = {
    "no choices": Reply(body={"choices": []}),
    "an error with status 200": Reply(body={"error": {"message": "the model crashed"}}),
    "null content": completion(None),
    "content that is no text": Reply(body={"choices": [{"message": {"content": 3}}]}),
    "an HTML page": Reply(body="<html><body>Bad gateway</body></html>"),
    "a list": Reply(body=[1, 2]),
    "nothing": Reply(body=""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_asked_for_again_and_then_an_error(name: str) -> None:
    with FakeServer(in_turn(MALFORMED[name], "fine")) as server:
        assert sampler(server).sample([ask()])[0].text == "fine"
    with FakeServer(in_turn(MALFORMED[name])) as server:
        with pytest.raises(ModelError, match=r"failed 3 times in a row.*(no chat completion|without text)"):
            sampler(server, retries=2).sample([ask()])
    assert len(server.bodies) == 3


def test_scored_actions_are_refused_before_anything_is_sent() -> None:
    with FakeServer(lambda body: "yes") as server:
        with pytest.raises(ConfigError, match="action_mode = 'text'"):
            sampler(server).sample([ask(choice=ActionChoice(lambda head: ["left"]))])
    assert not server.bodies


# ----------------------------------------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_busy_or_broken_server_is_asked_again_at_growing_intervals(status: int) -> None:
    waits: list[float] = []
    with FakeServer(in_turn(*[Reply(status, "oh")] * 4, "fine")) as server:
        assert sampler(server, sleep=waits.append).sample([ask()])[0].text == "fine"
    assert len(server.bodies) == 5
    for wait, least in zip(waits, (1, 2, 4, 8), strict=True):
        assert least <= wait <= 1.5 * least


def test_intervals_have_jitter_and_a_ceiling() -> None:
    waits: list[float] = []
    with FakeServer(lambda body: BUSY) as server, pytest.raises(ModelError):
        sampler(server, retries=12, sleep=waits.append).sample([ask()])
    assert all(60 <= w <= 90 for w in waits[6:])
    assert len(set(waits[6:])) == 6


@pytest.mark.parametrize("is_date", [False, True])
def test_the_server_s_own_waiting_time_is_respected(is_date: bool) -> None:
    waits: list[float] = []
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    busy = replace(BUSY, headers={"Retry-After": moment if is_date else "300"})
    with FakeServer(in_turn(busy, "fine")) as server:
        sampler(server, sleep=waits.append).sample([ask()])
    assert 200 <= waits[0] <= 450


@pytest.mark.parametrize("header", ["7200", "inf", "nan"])
def test_a_wait_of_hours_is_an_error_at_once(header: str) -> None:
    with FakeServer(lambda body: replace(BUSY, headers={"Retry-After": header})) as server:
        with pytest.raises(ModelError, match=r"asks to wait .*slow down"):
            sampler(server).sample([ask()])
    assert len(server.bodies) == 1


@pytest.mark.parametrize("header", ["", "soon", "-5"])
def test_a_waiting_time_without_meaning_is_ignored(header: str) -> None:
    waits: list[float] = []
    with FakeServer(in_turn(replace(BUSY, headers={"Retry-After": header}), "fine")) as server:
        sampler(server, sleep=waits.append).sample([ask()])
    assert 1 <= waits[0] <= 1.5


def test_retries_end_with_what_the_server_said() -> None:
    with FakeServer(lambda body: BUSY) as server:
        with pytest.raises(ModelError, match="failed 3 times in a row, the last time with: 429 slow down"):
            sampler(server, retries=2).sample([ask()])
    assert len(server.bodies) == 3


def test_silence_and_a_server_that_is_not_there_are_tried_again() -> None:
    finished = threading.Event()

    def stay_silent(body: dict[str, Any]) -> str:
        finished.wait(5)
        return "late"

    with FakeServer(stay_silent) as server:
        with pytest.raises(ModelError, match=r"failed 2 times.*timed out"):
            sampler(server, retries=1, timeout_s=0.05).sample([ask()])
        finished.set()
    with pytest.raises(ModelError, match="failed 2 times"):
        sampler(server, retries=1).sample([ask()])  # it is gone


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (401, "bad key", "OPENAI_API_KEY is not set"),
        (404, "no such model", "model 'a-model'"),
        (400, "use max_completion_tokens", "--request-field"),
    ],
)
def test_a_refusal_is_an_error_at_once_that_says_what_to_do(
    status: int, message: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeServer(lambda body: Reply(status, {"error": {"message": message}})) as server:
        with pytest.raises(ModelError, match=f"{status} {message}.*{advice}"):
            sampler(server).sample([ask()])
    assert len(server.bodies) == 1


def bad_is_refused(body: dict[str, Any]) -> Reply | str:
    return Reply(400, "no such talk") if said(body) == "bad" else "yes"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refused_prompt_costs_no_other_one(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    with FakeServer(bad_is_refused) as server:
        served = sampler(server, concurrency=concurrency)
        refused, fine, again, last = served.sample([ask(text) for text in ("bad", "a", "bad", "b")])
        assert [c.text for c in (refused, fine, again, last)] == ["", "yes", "", "yes"]
        assert refused.finish_reason is again.finish_reason is FinishReason.REFUSED
        assert served.sample([ask("bad")])[0].finish_reason is FinishReason.REFUSED
    told = [r for r in caplog.records if "counts as an empty answer: 400 no such talk; --request-field" in r.message]
    assert [r.levelname for r in told].count("WARNING") == 1


def test_what_is_refused_of_all_prompts_is_an_error() -> None:
    many = [ask("bad")] * (MOST_REFUSED + 1)
    with FakeServer(bad_is_refused) as server:
        with pytest.raises(ModelError, match="400 no such talk"):  # nothing was answered yet
            sampler(server).sample([ask("bad"), ask("bad")])
        served = sampler(server, concurrency=1)
        served.sample([ask("a"), *many[1:], ask("b"), *many[1:]])
        with pytest.raises(ModelError, match="400 no such talk"):
            served.sample([ask("a"), *many])
    with FakeServer(lambda body: Reply(401, "no key") if said(body) == "bad" else "yes") as server:
        with pytest.raises(ModelError, match="no key"):
            sampler(server, concurrency=1).sample([ask("a"), ask("bad")])


def test_after_an_error_nothing_more_is_sent() -> None:
    with FakeServer(lambda body: Reply(403, "no") if said(body) == "0" else "yes") as server:
        with pytest.raises(ModelError, match="403 no"):
            sampler(server, concurrency=1).sample([ask(str(i)) for i in range(50)])
    assert len(server.bodies) == 1


def test_an_error_ends_the_back_off_of_the_others() -> None:
    def refuse(body: dict[str, Any]) -> Reply:
        return replace(BUSY, headers={"Retry-After": "500"}) if said(body) == "busy" else Reply(403, "no")

    begun = time.monotonic()
    with FakeServer(refuse) as server, pytest.raises(ModelError, match="403 no"):
        sampler(server, sleep=None, concurrency=2).sample([ask("busy"), ask("wrong")])
    assert time.monotonic() - begun < 60


# ----------------------------------------------------------------------------------------------- what it takes


def test_what_was_spent_is_what_the_server_counted() -> None:
    with FakeServer(in_turn(BUSY, completion("a", usage=(2000, 30)), completion("b", usage=(1000, 20)))) as server:
        served = sampler(server, price=(2.0, 10.0))
        served.sample([ask()])
        served.sample([ask()])
    spending = served.spending
    assert (spending.requests, spending.input_tokens, spending.output_tokens) == (3, 3000, 50)
    assert spending.cost == pytest.approx(3000 * 2e-6 + 50 * 10e-6)
    assert str(spending) == "3 requests, 3,000 input and 50 output tokens, a cost of 0.0065"


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ({"most_requests": 3}, 3),
        ({"most_tokens": 250}, 3),  # 110 each: 220 is below the limit, 330 is not
        ({"most_cost": 0.0002, "price": (1.0, 0.0)}, 2),  # 0.0001 each
    ],
)
def test_a_limit_stops_before_the_next_request(limits: dict[str, Any], sent: int) -> None:
    with FakeServer(lambda body: "yes") as server:
        served = sampler(server, concurrency=1, **limits)
        with pytest.raises(ModelError, match=rf"the limit of .* is reached, with {sent} requests, {sent * 100} input"):
            served.sample([ask() for _ in range(10)])
        assert len(server.bodies) == sent
        with pytest.raises(ModelError, match="is reached"):
            served.sample([ask()])
    assert len(server.bodies) == sent


def test_many_threads_send_no_more_requests_than_allowed() -> None:
    with FakeServer(lambda body: "yes") as server:
        with pytest.raises(ModelError, match="is reached"):
            sampler(server, concurrency=8, most_requests=13).sample([ask() for _ in range(40)])
    assert len(server.bodies) == 13


def test_tries_count_as_requests() -> None:
    with FakeServer(lambda body: BUSY) as server, pytest.raises(ModelError, match="limit of 2 requests"):
        sampler(server, most_requests=2).sample([ask()])
    assert len(server.bodies) == 2


def test_a_limit_of_tokens_needs_a_server_that_counts_them() -> None:
    with FakeServer(lambda body: completion("yes", usage=None)) as server:
        plain = sampler(server)
        plain.sample([ask()])
        assert str(plain.spending).endswith("1 answers of unknown length")
        with pytest.raises(ModelError, match="--most-requests"):
            sampler(server, most_tokens=1000).sample([ask()])


def test_a_limit_of_cost_needs_a_price() -> None:
    with FakeServer(lambda body: "yes") as server, pytest.raises(ConfigError, match="--price"):
        sampler(server, most_cost=1.0)


# ----------------------------------------------------------------------------------------------- the context


def test_without_a_context_everything_fits_and_with_one_what_the_server_s_counts_allow() -> None:
    with FakeServer(lambda body: completion("yes", usage=(len(said(body)) // 2, 1))) as server:
        assert sampler(server).fits(prompt("x" * 10**6), 64)
        served = sampler(server, context=1000)
        text = prompt("x" * 2400)
        assert served.fits(text, 64)  # a guess of four characters a token
        assert not served.fits(text, 500)
        served.sample([ask("x" * 400)])  # two characters a token
        assert not served.fits(text, 64)
        assert served.fits(prompt("x" * 1800), 64)


TOO_LONG = {
    "OpenAI": (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 8227 tokens.",
        {"type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"},
    ),
    "OpenAI, newer": (
        "Your input exceeds the limits of this model. Please adjust your input and try again.",
        {"type": "invalid_request_error", "code": "context_length_exceeded"},
    ),
    "vLLM": (
        "This model's maximum context length is 2048 tokens. However, you requested 64 output tokens and your prompt contains "
        "at least 1985 input tokens, for a total of at least 2049 tokens.",
        {"type": "BadRequestError", "code": 400},
    ),
    "vLLM, newer": (
        "You passed 3073 input tokens and requested 64 output tokens. However, the model's context length is only 3136 tokens, "
        "resulting in a maximum input length of 3072 tokens.",
        {"type": "BadRequestError", "param": "input_tokens", "code": 400},
    ),
    "vLLM, pictures": (
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        {"type": "BadRequestError", "code": 400},
    ),
    "llama.cpp": (
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        {"type": "exceed_context_size_error", "code": 400},
    ),
    "Anthropic": ("prompt is too long: 210000 tokens > 200000 maximum", {"type": "invalid_request_error"}),
}


@pytest.mark.parametrize("server_name", TOO_LONG)
def test_a_prompt_that_the_server_refuses_as_too_long_costs_no_other_and_is_asked_once(
    server_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    message, more = TOO_LONG[server_name]
    refusal = Reply(400, {"error": {"message": message, **more}})
    with FakeServer(lambda body: refusal if said(body) == "long" else "yes") as server:
        long, short, again = sampler(server).sample([ask("long"), ask("short"), ask("long")])
    assert (long.text, long.finish_reason) == (again.text, again.finish_reason) == ("", FinishReason.OVERFLOW)
    assert (short.text, short.finish_reason) == ("yes", FinishReason.END_TOKEN)
    assert len(server.bodies) == 3
    assert [r.levelname for r in caplog.records if message in r.message].count("WARNING") == 1


@pytest.mark.parametrize(
    "message", ["max_tokens is too large: 9000", "no pictures in this context", "the message is too long to be nice"]
)
def test_another_refusal_is_no_overflow(message: str) -> None:
    with FakeServer(lambda body: Reply(400, {"error": {"message": message}})) as server:
        with pytest.raises(ModelError, match=message):
            sampler(server).sample([ask()])


# ----------------------------------------------------------------------------------------------- the key and the address


def test_the_key_goes_into_the_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    echo = Reply(429, {"error": {"message": f"wrong key {KEY}"}})
    with FakeServer(in_turn(echo, replace(echo, status=403))) as server:
        served = sampler(server, api_key_env="MY_KEY")
        with pytest.raises(ModelError, match=r"wrong key \*\*\*.*MY_KEY holds the wrong key") as caught:
            served.sample([ask()])
    assert [h["authorization"] for h in server.headers] == [f"Bearer {KEY}"] * 2
    assert "wrong key ***" in caplog.text
    everything = (caplog.text, str(caught.value), repr(served), str(served.spending), json.dumps(server.bodies))
    assert not any(KEY in text for text in everything)


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeServer(lambda body: "yes") as server:
        sampler(server).sample([ask()])
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("value", "advice"), [("", "MY_KEY .*is not set"), (f"{KEY}\n{KEY}", "characters"), ("schlüssel", "characters")]
)
def test_a_named_key_that_is_none_is_an_error_that_does_not_show_it(
    value: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match=advice) as caught:
        ServedSampler("m", "http://localhost:1/v1", MemoryImageStore(), api_key_env="MY_KEY")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "/v1", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="base URL"):
        ServedSampler("m", url, MemoryImageStore())


def test_a_password_in_the_address_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with FakeServer(in_turn(BUSY)) as server:
        server.url = server.url.replace("//", "//me:hidden@")
        with pytest.raises(ModelError) as caught:
            sampler(server, retries=1).sample([ask()])
    assert "hidden" not in caplog.text + str(caught.value)


# ----------------------------------------------------------------------------------------------- the whole way


def count_up(body: dict[str, Any]) -> str:
    """Plays NumberLine in text mode from what the prompt says."""
    return PLUS if body["temperature"] else "I cannot decide."


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


PLAY = ["--env", "eyas/NumberLine-v0", "--episodes", "3", "--num-envs", "2", "--json"]


def test_eval_plays_a_served_model_from_pictures_and_tells_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeServer(count_up) as server:
        options = ["--base-url", server.url, "--interface", "max_new_tokens=200", "--price", "1", "2"]
        result = run("eval", "served:org/a:model", *PLAY, *options, "--request-field", "top_p=0.9")
    assert result.exit_code == 0, result.output
    greedy, sample = json.loads(result.stdout)["rows"]
    assert (greedy["policy"], greedy["decoding"], sample["decoding"]) == ("served:org/a:model", "greedy", "sample")
    assert (greedy["parse_rate"], sample["parse_rate"]) == (0.0, 1.0)
    assert greedy["strict_success_rate"] == 0.0
    asked = server.bodies[0]
    assert (asked["model"], asked["max_tokens"], asked["top_p"]) == ("org/a:model", 200, 0.9)
    assert all(len(pictures(b)) == 1 for b in server.bodies)
    assert "eval 6/6" in result.stderr  # three episodes, twice
    assert f"took {len(server.bodies)} requests" in result.stderr and "a cost of" in result.stderr
    assert KEY not in result.output


def test_eval_stops_at_a_limit_and_still_tells_what_it_took() -> None:
    with FakeServer(count_up) as server:
        result = CliRunner().invoke(
            app, ["eval", "served:m", *PLAY, "--base-url", server.url, "--most-requests", "4", "--decoding", "sample"]
        )
    assert isinstance(result.exception, ModelError) and "--most-requests" in str(result.exception)
    assert len(server.bodies) == 4
    assert "took 4 requests" in result.stderr
    assert not result.stdout


def test_collect_writes_what_a_served_model_played_without_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tmp_path / "played"
    with FakeServer(count_up) as server:
        command = ["collect", "eyas/NumberLine-v0", "--policy", "served:m", "--base-url", server.url]
        result = run(*command, "--episodes", "2", "--num-envs", "2", "--output", str(folder), "--json")
    assert json.loads(result.stdout)["policy"] == "served:m"
    steps = [s for t in load_trajectories(folder) for s in t.steps]
    assert {s.completion.text for s in steps} == {PLUS}
    assert all(s.completion.token_ids is None for s in steps)
    assert not any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_an_agent_in_python_keeps_a_conversation_with_a_served_model() -> None:
    conversation = InterfaceConfig.model_validate({"history": {"kind": "conversation"}})
    task = TaskConfig(env="eyas/NumberLine-v0", interface=conversation)
    with FakeServer(count_up) as server:
        agent = eyas.Agent.served("m", base_url=server.url, tasks=[task])
        report = eyas.evaluate(agent, "eyas/NumberLine-v0", episodes=1, decodings=("sample",), max_position=3)
    assert report.rows[0].policy == "served:m"
    assert all(m["content"] == PLUS for b in server.bodies for m in b["messages"] if m["role"] == "assistant")
    assert len(server.bodies[-1]["messages"]) == 2 * len(server.bodies) - 1


def test_an_episode_ends_before_a_served_model_s_context_is_full() -> None:
    history = InterfaceConfig.model_validate({"history": {"kind": "conversation"}})
    with FakeServer(lambda body: completion(PLUS, usage=(300 * len(body["messages"]), 20))) as server:
        tasks = [TaskConfig(env="eyas/NumberLine-v0", interface=history)]
        agent = eyas.Agent.served("m", base_url=server.url, tasks=tasks, context=1000)
        report = eyas.evaluate(agent, "eyas/NumberLine-v0", episodes=4, decodings=("sample",))
    assert StopReason.CONTEXT_OVERFLOW in report.rows[0].stop_reasons


def full_after(num_messages: int) -> Callable[[dict[str, Any]], "str | Reply"]:
    refusal = Reply(400, {"error": {"message": "No.", "code": "context_length_exceeded"}})
    return lambda body: refusal if len(body["messages"]) > num_messages else '{"thoughts": "", "action": "-"}'


def test_an_episode_ends_where_the_server_says_that_its_prompt_is_too_long() -> None:
    with FakeServer(full_after(5)) as server:  # two steps, and the third prompt is refused
        options = ["--base-url", server.url, "--interface", "history.kind=conversation", "--decoding", "sample"]
        result = run("eval", "served:m", *PLAY, *options, "--env-arg", "mode=text")
    (row,) = json.loads(result.stdout)["rows"]
    assert row["stop_reasons"][StopReason.CONTEXT_OVERFLOW] >= 1
    assert row["episodes"] == 3 and row["mean_length_steps"] <= 3
    assert set(row["stop_reasons"]) <= {StopReason.CONTEXT_OVERFLOW, StopReason.TERMINATED}


def test_what_was_played_before_an_overflow_is_kept_without_the_refused_step(tmp_path: Path) -> None:
    with FakeServer(full_after(3)) as server:
        options = ["--base-url", server.url, "--interface", "history.kind=conversation", "--episodes", "2"]
        run("collect", "eyas/NumberLine-v0", "--policy", "served:m", "--output", str(tmp_path / "d"), *options)
    cut = [t for t in load_trajectories(tmp_path / "d") if t.stop_reason is StopReason.CONTEXT_OVERFLOW]
    assert cut and all(len(t.steps) == 2 and t.final_messages == t.steps[-1].messages for t in cut)
    assert not any(t.success for t in cut)


def test_a_server_that_cannot_read_a_first_prompt_ends_the_evaluation_with_what_to_do() -> None:
    with (
        FakeServer(full_after(0)) as server,
        pytest.raises(EnvironmentFailure, match="does not fit into the model's context"),
    ):
        run("eval", "served:m", *PLAY, "--base-url", server.url)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["eval", "served:m", *PLAY], "--base-url"),
        (["eval", "nano-random", *PLAY, "--base-url", "http://localhost:8000/v1"], "--base-url is for served models"),
        (["eval", "served:m", *PLAY, "--base-url", "http://h/v1", "--interface", "max_new_token=3"], "max_new_tokens"),
        (["collect", "eyas/NumberLine-v0", "--output", "x", "--most-requests", "3"], "--most-requests is for served"),
        (
            ["eval", "served:m", *PLAY, "--base-url", "http://h/v1", "--sampler", "kind=vllm"],
            "--sampler is for weights",
        ),
        (["eval", "nano-random", *PLAY, "--sampler", "kind=vlm"], "--sampler kind: should be 'in_process' or 'vllm'"),
        (
            ["eval", "nano-random", *PLAY, "--sampler", "max_bach=3"],
            "--sampler max_bach: unknown key; did you mean 'max_batch'",
        ),
        (["eval", "nano-random", *PLAY, "--sampler", "vllm"], "'vllm': write it as key=value"),
        (["train", "numberline_ppo", "model.name=served:m", "--dry-run"], "cannot be trained.*eyas eval"),
    ],
)
def test_what_cannot_be_asked_for_is_an_error_that_says_what_to_type(
    arguments: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=advice):
        run(*arguments)


DOCUMENT = (Path(__file__).parents[3] / "docs" / "served_models.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def help_of(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
def test_the_commands_of_the_guide_exist_with_their_options(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "eyas"
    assert all(a in help_of(command) for a in arguments if a.startswith("--"))


def test_the_options_that_the_guide_speaks_of_exist() -> None:
    shown = help_of("eval") + help_of("collect")
    assert not [option for option in re.findall(r"--[a-z-]+", DOCUMENT) if option not in shown]


def test_the_python_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    with FakeServer(count_up) as server:
        exec(code.replace("http://localhost:8000/v1", server.url).replace("episodes=50", "episodes=2"), {})
    assert capsys.readouterr().out.startswith(f"{len(server.bodies)} requests, {len(server.bodies) * 100:,} input")
