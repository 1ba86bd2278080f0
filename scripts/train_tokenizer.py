"""Trains the tokenizer of the built-in tiny model: byte-level BPE on English and on the formats that agents write.

The text is documentation that every Python installation carries (the standard library's, NumPy's and Gymnasium's
docstrings), so that the vocabulary serves prompts of environments not seen here, and samples of Eyas's own formats.

    python scripts/train_tokenizer.py            writes src/eyas/models/assets/nano_tokenizer.json
"""

import ast
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

import gymnasium
import numpy
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = [
    "<pad>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
]
TARGET = Path(__file__).parents[1] / "src/eyas/models/assets/nano_tokenizer.json"


def docstrings() -> Iterator[str]:
    """English prose: documentation topics, and docstrings of environments and of NumPy, read without importing."""
    yield from topics.topics.values()
    for package, repeats in ((gymnasium, 8), (numpy, 1)):  # prompts talk like the former
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            if "tests" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    yield from [ast.get_docstring(node) or ""] * repeats


def formats(n: int = 4000) -> Iterator[str]:
    """What agents read and write: JSON with thoughts, tags, actions, numbers, cards, directions, colours."""
    rng = random.Random(0)
    words = [
        "left",
        "right",
        "up",
        "down",
        "forward",
        "turn",
        "pick",
        "drop",
        "toggle",
        "stand",
        "hit",
        "jump",
        "noop",
        "fire",
        "open",
        "close",
        "red",
        "green",
        "blue",
    ]
    keys = ["current number", "target number", "cards", "current formula", "position", "goal", "mission", "observation"]
    ranks = ["A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K"]
    for _ in range(n):
        action = rng.choice([*words, *"+-*/=()", str(rng.randint(0, 99))])
        values = [
            rng.choice([str(rng.randint(0, 99)), ", ".join(rng.choices(ranks, k=rng.randint(1, 4)))]) for _ in keys
        ]
        facts = ", ".join(
            f'"{k}": "{v}"' for k, v in rng.sample(list(zip(keys, values, strict=True)), rng.randint(0, 2))
        )
        facts = facts + ", " if facts else ""
        thought = rng.choice(
            [
                f"The current number is {values[0]} and the target is {values[1]}, so I choose {action}.",
                f"The cards are {values[2]}. I choose {action} to reach the goal.",
                f"The goal is on the {rng.choice(words)} side, so I move {action}.",
            ]
        )
        yield f'{{{facts}"thoughts": "{thought}", "action": "{action}"}}'
        yield f"<think>{thought}</think><answer>{action}</answer>"
        keys_asked = "".join(f'"{k}": "...", ' for k in rng.sample(keys, rng.randint(0, 2)))
        choices = " or ".join(f'"{a}"' for a in rng.sample([*words, *"+-*/=()"], rng.randint(2, 4)))
        yield f'Answer in JSON: {{{keys_asked}"thoughts": "...", "action": {choices}}}'


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # single digits, words with their leading space, runs of punctuation also over a space (`": "`), white space
            pre_tokenizers.Split(
                Regex(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+(?: [^\sA-Za-z\d]+)*|\s+"), behavior="isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*docstrings(), *formats()], trainer)
    return tokenizer


if __name__ == "__main__":
    trained = train()
    trained.save(str(TARGET))
    example = '{"current number": "2", "target number": "4", "thoughts": "2 is less than 4, so +", "action": "+"}'
    print(f"{trained.get_vocab_size()} tokens; example: {trained.encode(example).tokens}")
