"""What a model will be shown, and whether every action survives the way through words."""

from pathlib import Path
from typing import Any

from eyas.build import build_task
from eyas.checks.contract import Record
from eyas.checks.report import Level, Report
from eyas.config import TaskConfig
from eyas.errors import EyasError
from eyas.interface import Interface
from eyas.rollouts.images import MemoryImageStore, image_to_png
from eyas.rollouts.task import Task
from eyas.seeding import generator
from eyas.types import Completion, ExpertMove, ImagePart, Message, ParsedAction

RANDOM_ACTIONS = 200  # tried where the actions cannot be listed


def check_interface(report: Report, config: TaskConfig) -> Task | None:
    """Derives the words from the spaces; what these are is in the report. None where there are none."""
    try:
        task = build_task(config)
    except EyasError as error:
        report.add("interface", str(error), Level.ERROR)
        return None
    interface = task.interface
    names = interface.codec.names
    listed = ", ".join(names) if 0 < len(names) <= 32 else interface.codec.describe()
    report.add("interface", f"actions: {listed}")
    left_out = getattr(interface.observer, "left_out", ())
    if left_out:
        parts = "the observation's numbers" if left_out == ("observation",) else ", ".join(left_out)
        report.add("left out", f'{parts} stay unseen beside the picture: show = "both" says them too')
    _check_round_trip(report, interface)
    report.add("expert", "registered" if task.expert else "none: demonstrations are random (eyas.envs.experts)")
    return task


def check_legal_actions(report: Report, interface: Interface, record: Record) -> None:
    """Whether what info says of legal actions fits the space and leaves one."""
    sizes = []
    for place, info in enumerate(record.infos):
        try:
            legal = interface.legal_actions(info)
        except (ValueError, TypeError) as error:
            report.add("legal actions", f"in step {place + 1}: {error}", Level.ERROR)
            return
        wrong = [a for a in legal or () for move in interface.moves(a) if not _is_inside(interface, move)]
        if wrong or (legal is not None and not legal):
            what = f"{wrong[0]!r} is not in {interface.codec.space}" if wrong else "no action is legal"
            report.add("legal actions", f"in step {place + 1}: {what}", Level.ERROR)
            return
        sizes.append(None if legal is None else len(legal))
    counted = {size for size in sizes if size is not None}
    if len(counted) > 1:
        report.add("legal actions", f"{min(counted)} to {max(counted)} a step")


def check_prompt(report: Report, interface: Interface, record: Record, images: MemoryImageStore) -> int | None:
    """Makes the prompt of the first step. The longest side of its pictures in pixels; None where there is no prompt."""
    frame = record.frame if interface.renders else None
    try:
        messages = interface.render(record.start.observation, record.info, frame, images)
    except (ValueError, TypeError, KeyError, EyasError) as error:
        report.add("prompt", f"the first observation cannot be shown: {error}", Level.ERROR)
        return None
    hashes = [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]
    sizes = ", ".join("x".join(map(str, images.get(h).shape[1::-1])) for h in hashes)
    noun = "picture" if len(hashes) == 1 else "pictures"
    pictures = f"{len(hashes)} {noun} of {sizes} pixels" if hashes else "no picture"
    characters = len(prompt_text(messages))
    report.prompt = {"messages": [_told(m) for m in messages], "pictures": []}
    report.add("prompt", f"{characters} characters and {pictures}")
    return max((max(images.get(h).shape[:2]) for h in hashes), default=0)


def save_prompt(report: Report, images: MemoryImageStore, folder: Path | None) -> None:
    """Completes the prompt's text; with a folder, writes `prompt.txt` and the pictures there and names the files."""
    lines, paths = [], []
    for message in report.prompt["messages"]:
        lines.append(f"[{message['role']}]")
        for part in message["content"]:
            if part["type"] == "text":
                lines.append(part["text"])
                continue
            name = f"picture_{len(paths) + 1}.png"
            paths.append(name if folder is None else str(folder / name))
            lines.append(f"[picture: {paths[-1]}]")
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(image_to_png(images.get(part["hash"])))
    report.prompt |= {"pictures": [] if folder is None else paths, "text": "\n".join(lines)}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompt.txt").write_text(report.prompt["text"] + "\n", encoding="utf-8")


def prompt_text(messages: tuple[Message, ...]) -> str:
    return "\n".join(p.text for m in messages for p in m.parts if not isinstance(p, ImagePart))


def _told(message: Message) -> dict[str, Any]:
    content = [
        {"type": "image", "hash": p.image_hash} if isinstance(p, ImagePart) else {"type": "text", "text": p.text}
        for p in message.parts
    ]
    return {"role": message.role, "content": content}


def _check_round_trip(report: Report, interface: Interface) -> None:
    """Writes actions as a demonstrator would and reads them back."""
    listed = interface.codec.actions
    rng = generator("env check", "round trip")
    actions = listed or [interface.random_action(rng, None) for _ in range(RANDOM_ACTIONS)]
    facts = dict.fromkeys(interface.format.fact_keys, "1")
    for action in actions:
        text = interface.write(ExpertMove(action, facts, "I choose."))
        parsed = interface.parse(Completion(text), None)
        if not isinstance(parsed, ParsedAction) or not _is_the_same(interface, parsed.action, action):
            report.add("round trip", f"{action!r} is written as {text!r} and read as {parsed!r}", Level.ERROR)
            return
    report.add("round trip", f"{'all' if listed else 'random'} {len(actions)} actions are read as they were written")


def _is_the_same(interface: Interface, read: Any, written: Any) -> bool:
    """By their words: numbers are rounded, or the nearest of a few."""
    is_same = interface.name_of(read) == interface.name_of(written)
    return is_same and all(_is_inside(interface, move) for move in interface.moves(read))


def _is_inside(interface: Interface, move: Any) -> bool:
    return bool(interface.codec.space.contains(move))
