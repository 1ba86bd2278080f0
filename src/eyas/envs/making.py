"""From an environment's id to the environment, in this process or in another one."""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, load_env_creator, parse_env_id

from eyas.errors import ConfigError

# What ids of other packages begin with, and the module that registers them.
PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "ALE/": "ale_py"}


@dataclass(frozen=True)
class EnvFactory:
    """Makes an environment anew at each call, with `render_mode="rgb_array"` where its observation is no picture and no text.

    It carries what Gymnasium registered and the wrappers' classes, so with cloudpickle it also makes, in another process,
    what was registered or defined in a script or notebook.
    """

    env_id: str
    spec: EnvSpec
    env_args: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[tuple[type[gym.Wrapper], Mapping[str, Any]], ...] = ()

    def __call__(self) -> gym.Env:
        """Raises ConfigError where the environment or a wrapper cannot be made with these arguments."""
        env = self._make({})
        may_draw = "render_mode" not in self.env_args and "rgb_array" in (env.metadata.get("render_modes") or ())
        try:
            env = self._wrap(env)
        except ConfigError:  # a wrapper that films needs an environment that draws
            if not may_draw:
                raise
        else:
            is_seen = isinstance(env.observation_space, gym.spaces.Text) or len(env.observation_space.shape or ()) == 3
            if is_seen or not may_draw:
                return env
            env.close()
        return self._wrap(self._make({"render_mode": "rgb_array"}))

    def _make(self, more_args: Mapping[str, Any]) -> gym.Env:
        try:
            return gym.make(self.spec, **self.env_args, **more_args)
        except gym.error.Error as error:
            raise ConfigError(f"environment '{self.env_id}': {error}") from error
        except Exception as error:  # whatever the environment's own constructor raises
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(f"environment '{self.env_id}' with {dict(self.env_args)}: {problem}") from error

    def _wrap(self, env: gym.Env) -> gym.Env:
        for wrapper, args in self.wrappers:
            try:
                env = wrapper(env, **args)
            except Exception as error:
                env.close()
                problem = f"{type(error).__name__}: {error}"
                raise ConfigError(
                    f"wrapper '{wrapper.__name__}' of '{self.env_id}' with {dict(args)}: {problem}"
                ) from error
        return env


def env_factory(
    env_id: str, env_args: Mapping[str, Any] | None = None, wrappers: Sequence[str | Mapping[str, Any]] = ()
) -> EnvFactory:
    """Looks an environment up, and the wrappers that are put around it in their order.

    `env_id` is what `gymnasium.make` takes, `module:EnvId` too. A wrapper is `"module:Class"`, or
    `{"class": "module:Class", "args": {...}}`. Raises ConfigError, saying what to type, where there is none of that name.
    """
    return EnvFactory(env_id, _find_spec(env_id), dict(env_args or {}), tuple(_find_wrapper(w) for w in wrappers))


def make_env(
    env_id: str, env_args: Mapping[str, Any] | None = None, wrappers: Sequence[str | Mapping[str, Any]] = ()
) -> gym.Env:
    """One environment; arguments and errors as in `env_factory`."""
    return env_factory(env_id, env_args, wrappers)()


def _find_spec(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, f"environment '{env_id}'")
    package = next((p for prefix, p in PACKAGES.items() if name.startswith(prefix)), None)
    try:
        spec = gym.spec(_with_version(name, package))
    except gym.error.Error as error:
        nearest = difflib.get_close_matches(name, list(gym.registry), n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        if package and not _registers(package):
            hint = f"; it needs a package: type `pip install eyas[envs]`, which brings {package}"
        # Gymnasium's own guess lacks namespace and version
        problem = str(error).split(" Did you mean")[0].removesuffix(".")
        raise ConfigError(f"environment '{env_id}': {problem}{hint}") from error
    # another process has another main
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
        return replace(spec, entry_point=load_env_creator(spec.entry_point))
    return spec


def _with_version(name: str, package: str | None) -> str:
    """The full id; the newest version where the id names none. A package that Gymnasium did not load itself is imported."""
    namespace, stem, version = parse_env_id(name)
    if name not in gym.registry and package:
        _registers(package)
    return get_env_id(namespace, stem, find_highest_version(namespace, stem) if version is None else version)


def _registers(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _find_wrapper(entry: str | Mapping[str, Any]) -> tuple[type[gym.Wrapper], Mapping[str, Any]]:
    how = 'write "module:Class", or {class = "module:Class", args = {...}}'
    path, args = (entry, {}) if isinstance(entry, str) else (entry.get("class"), entry.get("args", {}))
    unknown = set() if isinstance(entry, str) else set(entry) - {"class", "args"}
    if unknown or not isinstance(args, Mapping) or not isinstance(path, str) or path.count(":") != 1:
        raise ConfigError(f"wrapper {entry!r} cannot be used: {how}")
    module_name, name = path.split(":")
    module = _import(module_name, f"wrapper '{path}'")
    wrapper = getattr(module, name, None)
    if wrapper is None:
        nearest = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean '{module_name}:{nearest[0]}'?" if nearest else ""
        raise ConfigError(f"wrapper '{path}': module {module_name} has no {name}{hint}")
    if not (isinstance(wrapper, type) and issubclass(wrapper, gym.Wrapper)):
        raise ConfigError(f"wrapper '{path}' is no gymnasium.Wrapper: derive the class from it")
    return wrapper, dict(args)


def _import(module: str, whose: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a module of the user's may raise anything
        problem = f"{type(error).__name__}: {error}"
        hint = "; is it installed, or in a folder on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(f"{whose}: module '{module}' cannot be imported: {problem}{hint}") from error
