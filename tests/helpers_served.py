"""A server that speaks the chat completions protocol, in a thread, and answers from a script."""

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from eyas.rollouts.images import png_to_image
from eyas.seeding import generator

LETTERS = "abcdefghij .}"


@dataclass
class Reply:
    """What goes over the wire, as it is."""

    status: int = 200
    body: Any = ""  # text, or what becomes JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeServer:
    """`script` makes of a request's body the text of the answer, or a Reply. What was asked stands in `bodies`."""

    script: Callable[[dict[str, Any]], "str | Reply"]
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    together: int = 0
    most_together: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self.lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(body)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            made = self.script(body)
        finally:
            with self.lock:
                self.together -= 1
        return made if isinstance(made, Reply) else completion(made)

    def __enter__(self) -> "FakeServer":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {key.lower(): value for key, value in self.headers.items()}
                reply = fake.answer(self.path, headers, body)
                text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64  # with the usual 5, a burst of connections waits a second

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def completion(text: str | None, finish_reason: str = "stop", usage: tuple[int, int] | None = (100, 10)) -> Reply:
    """A chat completion; `usage` are the tokens of prompt and completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
    if usage is not None:
        body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage), total_tokens=sum(usage))
    return Reply(body=body)


def random_letters(body: dict[str, Any]) -> Reply:
    """A model whose tokens are letters: seeded, greedy at temperature 0, with an end of its turn at "."."""
    seed = body["seed"] if body["temperature"] else 0
    rng = generator("fake model", json.dumps(body["messages"]), seed)
    drawn = "".join(rng.choice(list(LETTERS), body["max_tokens"]))
    end = drawn.find(".")
    text = drawn if end < 0 else drawn[:end]
    return completion(text, "length" if end < 0 else "stop", (50, len(text) + (end >= 0)))


def said(body: dict[str, Any]) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


def pictures(body: dict[str, Any]) -> list[np.ndarray]:
    """The pixels of every picture in the request."""
    parts = [p for m in body["messages"] if isinstance(m["content"], list) for p in m["content"]]
    urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    assert all(u.startswith("data:image/png;base64,") for u in urls)
    return [png_to_image(base64.b64decode(u.partition(",")[2])) for u in urls]
