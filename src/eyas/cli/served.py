"""Models behind a server, for every command that plays: their options, and the agent that comes of them."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from eyas.cli.arguments import environment_arguments
from eyas.errors import ConfigError
from eyas.problems import in_words

if TYPE_CHECKING:
    from eyas.build import Agent

Part = TypeVar("Part", bound=BaseModel)


def _option(help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Served models (served:MODEL)", **settings)


def options(
    base_url: Annotated[str | None, _option("Where the server is, as http://localhost:8000/v1.")] = None,
    api_key_env: Annotated[str | None, _option("Environment variable with the key. Default: OPENAI_API_KEY.")] = None,
    interface: Annotated[
        list[str] | None,
        _option("How it is asked, as in a recipe: max_new_tokens=300, history.kind=conversation.", metavar="KEY=VALUE"),
    ] = None,
    request_field: Annotated[
        list[str] | None,
        _option("Goes into each request: reasoning_effort=low; KEY= leaves a field out.", metavar="KEY=VALUE"),
    ] = None,
    concurrency: Annotated[int | None, _option("Requests under way together. Default: 8.", min=1)] = None,
    timeout_s: Annotated[
        float | None, _option("Seconds to wait for an answer before it is asked again. Default: 120.", min=0.1)
    ] = None,
    retries: Annotated[
        int | None, _option("How often a request is sent again to a busy or failing server. Default: 5.", min=0)
    ] = None,
    context: Annotated[
        int | None, _option("Most tokens of prompt and completion: an episode ends before they are exceeded.", min=1)
    ] = None,
    most_requests: Annotated[int | None, _option("Stop before there are more requests.", min=1)] = None,
    most_tokens: Annotated[int | None, _option("Stop at this many tokens, input and output together.", min=1)] = None,
    most_cost: Annotated[float | None, _option("Stop at this cost; needs --price.", min=0)] = None,
    price: Annotated[
        tuple[float, float] | None, _option("Of a million input and a million output tokens.", metavar="IN OUT")
    ] = None,
) -> None:
    """The signature is what `with_served_options` gives to a command."""


OPTIONS = inspect.signature(options).parameters


def with_served_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of served models to a command; it gets those that were typed as the mapping `served`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "served"]

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        served = {name: arguments.pop(name) for name in OPTIONS}
        command(**arguments, served={name: value for name, value in served.items() if value is not None})

    parameters = [*own, *OPTIONS.values()]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


@contextmanager
def playing_agent(name: str, env: str, served: dict[str, Any], sampler: list[str] | None = None) -> "Iterator[Agent]":
    """A checkpoint or model by name, with `sampler` as in a recipe, or a served one with its options.

    What a served one took is told at the end, on stderr.
    """
    from eyas.build import Agent
    from eyas.config import SamplerConfig
    from eyas.model_config import SERVED

    if not name.startswith(SERVED):
        refuse_served(name, served)
        agent = Agent.from_pretrained(name, _part(SamplerConfig, "--sampler", sampler))
    elif sampler:
        raise ConfigError(
            f"--sampler is for weights that are here, and the server of '{name}' has its own: leave it out"
        )
    else:
        agent = _served_agent(name.removeprefix(SERVED), env, **served)
    try:
        yield agent
    finally:
        if spending := getattr(agent.policy, "spending", None):
            print(f"{name} took {spending}", file=sys.stderr)


def refuse_served(name: str, served: dict[str, Any]) -> None:
    """Raises ConfigError where options of served models were typed for something else."""
    if served:
        option = next(iter(served)).replace("_", "-")
        raise ConfigError(f"--{option} is for served models, and '{name}' is none: type served:MODEL, or leave it out")


def _served_agent(
    model: str,
    env: str,
    base_url: str | None = None,
    interface: list[str] | None = None,
    request_field: list[str] | None = None,
    **options: Any,
) -> "Agent":
    from eyas.build import Agent
    from eyas.config import InterfaceConfig, TaskConfig

    if not model:
        raise ConfigError("which model? Type its name on the server behind the colon, as served:gemma3:12b")
    if base_url is None:
        raise ConfigError(f"where is the model '{model}'? Type its --base-url, as http://localhost:8000/v1")
    asked = _part(InterfaceConfig, "--interface", interface)
    fields = environment_arguments(request_field)
    return Agent.served(
        model, base_url=base_url, tasks=[TaskConfig(env=env, interface=asked)], fields=fields, **options
    )


def _part(part: type[Part], option: str, pairs: list[str] | None) -> Part:
    """A part of a recipe, typed as KEY=VALUE pairs."""
    try:
        return part.model_validate(_nested(environment_arguments(pairs)))
    except ValidationError as error:
        raise ConfigError(f"{option} {in_words(error, part, {})}") from None


def _nested(dotted: dict[str, Any]) -> dict[str, Any]:
    """`{"history.kind": "summary"}` as tables."""
    tables: dict[str, Any] = {}
    for path, value in dotted.items():
        *above, key = path.split(".")
        here = tables
        for part in above:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ConfigError(f"'{path}={value}': '{part}' was given as a value before, and has no keys")
        here[key] = value
    return tables
