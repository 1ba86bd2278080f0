"""Eyas against TRL's GRPO on the same tiny models, pictures, group sizes, threads and seeds.

    python benchmarks/against_trl.py one_step        one step an episode, in groups of eight and without groups
    python benchmarks/against_trl.py text_turns      ten steps, words after each; TRL with a rollout function
    python benchmarks/against_trl.py picture_turns   ten steps, a picture after each; TRL with tool calls
    python benchmarks/against_trl.py numberline      time to a success rate
    options: [--updates 3] [--threads 1] [--seed 0] [--episodes N] [--output benchmarks/results]

Each side runs in a process of its own, in turn, with all that an update needs of it: environments, sampling, rewards,
update; Eyas also writes its records. Writes trl_PART.json with rates and their ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

TEXT = "Choose the action that the game wants: - or +. Say what you see, then choose."
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "numberline", "side"])
    parser.add_argument("case", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, default=3, help="that are measured, after one that warms up")
    parser.add_argument("--episodes", type=int, help="an update; by default 64 of one step, 32 of ten")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.part == "side":
        print("\n" + json.dumps(_side(json.loads(options.case))))
        return
    if options.part == "numberline":
        import race

        result = race.run(options.seed, options.threads)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = PARTS[options.part](options, Path(folder))
    from eyas.evaluation.records import provenance

    result |= {"threads": options.threads, "load_average": os.getloadavg()[0], "trl": _trl_version(), **provenance()}
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"trl_{options.part}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ratios"], indent=1))


def _trl_version() -> str:
    from importlib.metadata import version

    return version("trl")


# ----------------------------------------------------------------------------------------------- the parts


def one_step(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    base = _base(options, 64, env_steps=1, kind="one_step", shows="picture", new_tokens=32)
    runs = {
        f"{side}_{name}_{dtype}": (side, base | {"group_size": size, "dtype": dtype})
        for name, size in (("groups", 8), ("alone", 1))
        for dtype in DTYPES
        for side in ("trl", "eyas")
    }
    results = _run(runs)
    pairs = [
        (f"{name}_{dtype}", f"eyas_{name}_{dtype}", f"trl_{name}") for name in ("groups", "alone") for dtype in DTYPES
    ]
    return _report(results, pairs)


def text_turns(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    base = _base(options, 32, env_steps=10, kind="rollout", shows="text", new_tokens=24) | {"group_size": 8}
    runs = {f"{side}_{dtype}": (side, base | {"dtype": dtype}) for dtype in DTYPES for side in ("trl", "eyas")}
    return _report(_run(runs), [(dtype, f"eyas_{dtype}", "trl_") for dtype in DTYPES])


def picture_turns(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """TRL's tool schema and tool calls take tokens: Eyas runs with its own prompts, and with as many tokens a row."""
    import turns

    turns.save_tiny_qwen(folder)
    base = _base(options, 32, env_steps=10, kind="tool", shows="picture", new_tokens=_call_tokens(folder))
    base |= {"group_size": 8, "model": str(folder)}
    results = _run({f"trl_{dtype}": ("trl", base | {"dtype": dtype}) for dtype in DTYPES})
    equal = base | _padded(base, results["trl_float32"])
    results |= _run(
        {
            f"eyas_{name}_{dtype}": ("eyas", case | {"dtype": dtype})
            for name, case in (("own", base), ("equal", equal))
            for dtype in DTYPES
        }
    )
    return _report(results, [(f"{n}_{d}", f"eyas_{n}_{d}", "trl_") for n in ("own", "equal") for d in DTYPES])


PARTS = {"one_step": one_step, "text_turns": text_turns, "picture_turns": picture_turns}


def _base(options: argparse.Namespace, episodes: int, **case: Any) -> dict[str, Any]:
    common = {"episodes": options.episodes or episodes, "updates": options.updates, "threads": options.threads}
    common["trl_rows"] = 16 if case["env_steps"] == 1 else 8  # of a pass in its update: the fastest of those tried
    return common | {"seed": options.seed, "model": "", "text": TEXT} | case


def _call_tokens(folder: Path) -> int:
    import trl_side
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(folder)(trl_side.TOOL_CALL, add_special_tokens=False)["input_ids"])


def _padded(base: dict[str, Any], trl: dict[str, Any]) -> dict[str, Any]:
    """Words that make Eyas's rows as long as TRL's: before the first step, and at each later one."""
    (plain,) = _run({"eyas_plain": ("eyas", base | {"dtype": "float32", "updates": 1})}).values()
    missing = trl["row_tokens"] - plain["row_tokens"]
    a_turn = 4  # tokens by which a tool's answer is longer than a user's
    first = missing - a_turn * (base["env_steps"] - 1)
    import turns

    return {"text": f"{TEXT} {turns.Turns.words(first)}", "filler": a_turn}


# ----------------------------------------------------------------------------------------------- running and comparing


def _run(runs: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each in a process of its own, one after the other."""
    results = {}
    for name, (side, case) in runs.items():
        env = os.environ | {"OMP_NUM_THREADS": str(case["threads"]), "TRL_EXPERIMENTAL_SILENCE": "1"}
        env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, "side", json.dumps(case | {"side": side})]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
        steps = case["episodes"] * case["env_steps"]
        results[name] |= {f"steps_per_{k}": round(steps / median(results[name][k]), 2) for k in ("cpu_s", "elapsed_s")}
        print(
            name, {k: v for k, v in results[name].items() if "_per_" in k or "tokens" in k}, file=sys.stderr, flush=True
        )
    return results


def _side(case: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(case["threads"])
    if case["side"] == "trl":
        import trl_side

        return trl_side.measure(case)
    import eyas_side

    return eyas_side.measure(case)


def _report(results: dict[str, dict[str, Any]], pairs: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Ratios to TRL in the same precision and, as "to_best", to TRL in the one that is faster for it."""
    ratios: dict[str, Any] = {}
    for name, ours, trl in pairs:
        dtype = name.rsplit("_", 1)[-1]
        others = {d: results[f"{trl.rstrip('_')}_{d}"] for d in DTYPES}
        for clock in ("cpu_s", "elapsed_s"):
            key = f"steps_per_{clock}"
            best = max(o[key] for o in others.values())
            ratios.setdefault(name, {})[clock] = round(results[ours][key] / others[dtype][key], 3)
            ratios[name][f"{clock}_to_best"] = round(results[ours][key] / best, 3)
    return {"ratios": ratios, "sides": results}


if __name__ == "__main__":
    main()
