"""Asks a model that a server holds, over the chat completions protocol: vLLM, Ollama, a commercial one."""

import base64
import io
import logging
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from threading import Event, Lock
from typing import Any

import httpx2
from PIL import Image

from eyas.errors import ConfigError, ModelError
from eyas.model_config import KEY_VARIABLE
from eyas.samplers.spending import Spending
from eyas.types import Completion, FinishReason, ImagePart, ImageStore, Message, SampleRequest, StopRule

log = logging.getLogger(__name__)

FIRST_WAIT_S, MOST_BACK_OFF_S, MOST_WAIT_S = 1.0, 60.0, 600.0
PICTURE_CHARACTERS = 2000  # what a picture counts for where the length of a prompt is estimated
TOKENS_PER_CHARACTER = 0.25  # until the server has counted a prompt
MOST_REFUSED = 8  # prompts in a row, or as many as are under way together
_BUSY = (408, 425, 429)
_REFUSED = (400, 413, 422)
# How OpenAI, vLLM, llama.cpp and Anthropic say that a prompt is too long, as a message or as a code.
_TOO_LONG = re.compile(
    r"context[ _-](length|size|window)|maximum (model|prompt) length|prompt is too long", re.IGNORECASE
)


class _Passing(Exception):
    """An answer that another try may better; `wait_s` is how long the server asks to wait."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


class ServedSampler:
    """A policy without weights: it plays and judges, and cannot be trained.

    `base_url` ends where `/chat/completions` begins. The key is read from the environment variable `api_key_env` and goes
    into the header of each request, nowhere else. At most `concurrency` requests are under way; one that meets a busy,
    silent or broken server is sent again, up to `retries` times, at growing intervals. `context` is the most tokens of
    prompt and completion together, None where only the server knows. `fields` go into each request as they are, and take
    out of it what they set to None or "". `limits` are those of `Spending`.

    A prompt that the server refuses as too long for its model gives an empty completion with finish reason `overflow`. One
    that it refuses for another reason gives an empty one with `refused`. Where it has answered nothing yet, or refuses more
    than MOST_REFUSED one after the other, something is wrong with all of them, and that is an error.

    Raises ConfigError for what cannot be used as given. Sampling raises ModelError where the server refuses, keeps
    failing, or a limit is reached.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        images: ImageStore,
        *,
        api_key_env: str = KEY_VARIABLE,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        retries: int = 5,
        context: int | None = None,
        fields: Mapping[str, Any] | None = None,
        sleep: Callable[[float], Any] | None = None,
        **limits: Any,
    ):
        self.model = model
        self.images = images
        self.concurrency = concurrency
        self.retries = retries
        self.context = context
        self.fields = dict(fields or {})
        self.spending = Spending(**limits)
        self.policy_version = -1  # nobody knows how many updates a served model has behind it
        self._key, self._key_variable = _key(api_key_env), api_key_env
        self._client = _client(base_url, self._key, concurrency, timeout_s)
        self._place = str(self._client.base_url.copy_with(userinfo=b""))  # for messages: without a password in it
        self._sleep = sleep  # None: an event that the end of the work sets
        self._tokens_per_character, self._lock = TOKENS_PER_CHARACTER, Lock()
        self._has_answered = False
        self._num_refused = 0  # since the last answer
        self._refusal: ModelError | None = None  # the latest
        self._warned_of: set[FinishReason] = set()  # what the server said of each is a warning once

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        """One completion a request, in order, without token ids and log-probs."""
        if any(r.choice for r in requests):
            raise ConfigError(
                "a served model tells no log-probs of actions, so it cannot score them: set action_mode = 'text'"
            )
        stopping = Event()
        pool = ThreadPoolExecutor(min(self.concurrency, len(requests)) or 1)
        futures = [pool.submit(self._work, r, stopping) for r in requests]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # after an error or an interrupt, nothing more is sent
            stopping.set()
            pool.shutdown(cancel_futures=True)
        for future in futures:
            error = None if future.cancelled() else future.exception()
            if error and not isinstance(error, CancelledError):
                raise error  # that stopped the others
        completions = [f.result() for f in futures]
        if self._refusal and not self._has_answered:
            raise self._refusal
        return completions

    def forget(self) -> None:
        """There are no caches on this side."""

    def fits(self, messages: Sequence[Message], max_new_tokens: int) -> bool:
        """Whether prompt and completion fit into `context`.

        The prompt's tokens are estimated from its length, at the highest rate that the server has counted so far.
        """
        if self.context is None:
            return True
        return _characters(messages) * self._tokens_per_character + max_new_tokens <= self.context

    # ------------------------------------------------------------------------------------- one request

    def _work(self, request: SampleRequest, stopping: Event) -> Completion:
        try:
            return self._complete(request, stopping)
        except BaseException:
            stopping.set()
            raise

    def _complete(self, request: SampleRequest, stopping: Event) -> Completion:
        """Asks again, later and later, while the server is busy, silent or broken."""
        body = self._body(request)
        for attempt in count(1):
            if stopping.is_set():
                raise CancelledError
            self.spending.begin()
            try:
                return self._read(self._client.post("chat/completions", json=body), request)
            except (httpx2.RequestError, _Passing) as error:
                reason = self._hidden(str(error) or type(error).__name__)
                asked_s = error.wait_s if isinstance(error, _Passing) else 0.0
            if attempt > self.retries:
                times = f"{attempt} times in a row, the last time" if attempt > 1 else "once,"
                raise ModelError(
                    f"{self._place} failed {times} with: {reason}; is the server up, and the base URL right?"
                )
            wait_s = max(asked_s, min(FIRST_WAIT_S * 2 ** (attempt - 1), MOST_BACK_OFF_S))
            if not wait_s <= MOST_WAIT_S:
                raise ModelError(f"{self._place} asks to wait {wait_s:.0f} s ({reason}): try again then")
            wait_s *= 1 + random.random() / 2  # those that were refused together do not come back together
            log.warning("%s: %s; asked again in %.1f s", self._place, reason, wait_s)
            (self._sleep or stopping.wait)(wait_s)
        raise AssertionError  # the loop above does not end

    def _body(self, request: SampleRequest) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": [self._message(m) for m in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_new_tokens,
            "seed": request.seed % 2**31,  # some servers hold it in 32 bits
        }
        return {key: value for key, value in (body | self.fields).items() if value not in (None, "")}

    def _message(self, message: Message) -> dict[str, Any]:
        if message.completion is not None:
            content: Any = message.completion.text
        elif any(isinstance(p, ImagePart) for p in message.parts):
            content = [
                {"type": "image_url", "image_url": {"url": self._data_url(p.image_hash)}}
                if isinstance(p, ImagePart)
                else {"type": "text", "text": p.text}
                for p in message.parts
            ]
        else:
            content = "".join(p.text for p in message.parts if not isinstance(p, ImagePart))
        return {"role": message.role, "content": content}

    def _data_url(self, image_hash: str) -> str:
        buffer = io.BytesIO()
        Image.fromarray(self.images.get(image_hash)).save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    # ------------------------------------------------------------------------------------- one answer

    def _read(self, response: httpx2.Response, request: SampleRequest) -> Completion:
        """Raises _Passing where another try may help, ModelError where none will."""
        if response.status_code in _BUSY or response.status_code >= 500:
            raise _Passing(_told(response), _wait_s(response.headers.get("retry-after", "")))
        is_refused = response.status_code in _REFUSED
        if is_refused and _TOO_LONG.search(response.text):
            return self._nothing(FinishReason.OVERFLOW, _told(response))
        if response.status_code != 200:
            error = ModelError(self._hidden(f"{self._place} refuses: {_told(response)}{self._hint(response)}"))
            with self._lock:
                self._num_refused += 1
                if not is_refused or self._num_refused > max(MOST_REFUSED, self.concurrency):
                    raise error
                self._refusal = error
            told = f"counts as an empty answer: {_told(response)}{self._hint(response)}"
            return self._nothing(FinishReason.REFUSED, told)
        try:
            answer = response.json()
            choice, usage = answer["choices"][0], answer.get("usage")
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Passing(f"no chat completion: {_told(response)}") from None
        prompt_tokens = self.spending.add(usage)
        with self._lock:
            rate = prompt_tokens / _characters(request.messages)
            self._tokens_per_character = max(self._tokens_per_character, rate)
        if text is None and finish == "length":
            text = ""  # a model that thinks in private used all its tokens for that
        if not isinstance(text, str):
            raise _Passing(f"an answer without text: {_told(response)}")
        with self._lock:
            self._has_answered, self._num_refused = True, 0
        complete = _complete_part(text, request.stop)
        if complete is not None:
            return Completion(complete, policy_version=self.policy_version)
        reason = FinishReason.LENGTH if finish == "length" else FinishReason.END_TOKEN
        return Completion(text, finish_reason=reason, policy_version=self.policy_version)

    def _nothing(self, reason: FinishReason, told: str) -> Completion:
        with self._lock:
            level = logging.INFO if reason in self._warned_of else logging.WARNING
            self._warned_of.add(reason)
        log.log(level, "%s: %s", self._place, self._hidden(told))
        return Completion("", finish_reason=reason, policy_version=self.policy_version)

    def _hint(self, response: httpx2.Response) -> str:
        match response.status_code:
            case 401 | 403:
                state = "holds the wrong key" if self._key else "is not set"
                return f"; the environment variable {self._key_variable} {state} (--api-key-env names another)"
            case 404:
                return f"; does a model '{self.model}' run there, and does the base URL end in /v1 or the like?"
            case 400 | 422:
                return "; --request-field KEY=VALUE changes what is sent, KEY= leaves it out"
        return ""

    def _hidden(self, text: str) -> str:
        """Some servers repeat the key that they refuse."""
        return text.replace(self._key, "***") if self._key else text


# ----------------------------------------------------------------------------------------------- reading


def _key(variable: str) -> str:
    """The key in this environment variable; "" where the usual one is not set: servers of one's own need none."""
    key = os.environ.get(variable, "").strip()
    if not key and variable != KEY_VARIABLE:
        raise ConfigError(f"the environment variable {variable} is to hold the API key, and is not set: export it")
    if not (key.isascii() and key.isprintable()):  # such a header is refused with a message that shows it
        raise ConfigError(f"the environment variable {variable} holds characters that no API key has")
    return key


def _client(base_url: str, key: str, concurrency: int, timeout_s: float) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=concurrency)
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"the base URL '{base_url}' is none: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the base URL '{base_url}' is none: write it as http://localhost:8000/v1")
    return httpx2.Client(base_url=url, headers=headers, timeout=timeout_s, limits=limits)


def _characters(messages: Sequence[Message]) -> int:
    """How long a prompt is, roughly."""
    parts = [p for m in messages for p in m.parts]
    return 1 + sum(PICTURE_CHARACTERS if isinstance(p, ImagePart) else len(p.text) for p in parts)


def _complete_part(text: str, stop: StopRule | None) -> str | None:
    """The text up to where the rule first calls it complete; None where it never does."""
    ends = (i + 1 for i, character in enumerate(text) if stop and character in stop.characters)
    return next((text[:end] for end in ends if stop and stop.is_complete(text[:end])), None)


def _told(response: httpx2.Response, limit: int = 300) -> str:
    """The status and what the server said, shortened."""
    try:
        error = response.json()["error"]
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        text = " ".join(response.text.split())
    return f"{response.status_code} {text[:limit]}".strip()


def _wait_s(retry_after: str) -> float:
    """A Retry-After header, in seconds or as a date; 0 where it says nothing."""
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
