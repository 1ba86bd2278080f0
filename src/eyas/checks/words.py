"""What a model will be shown, and whether every action survives the way through words."""

from collections.abc import Sequence
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
from eyas.types import Completion, ExpertMove, ImagePart, Message, ParsedAction, TextPart

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


def check_prompt(report: Report, interface: Interface, record: Record, folder: Path | None) -> int:
    """Makes the prompt of the first step, and writes it to the folder. The longest side of its pictures in pixels, or 0."""
    images = MemoryImageStore()
    frame = record.frame if interface.renders else None
    try:
        messages = interface.render(record.start.observation, record.infos[0], frame, images)
    except (ValueError, TypeError, KeyError, EyasError) as error:
        report.add("prompt", f"the first observation cannot be shown: {error}", Level.ERROR)
        return 0
    parts = [part for message in messages for part in message.parts]
    pictures = [images.get(part.image_hash) for part in parts if isinstance(part, ImagePart)]
    sizes = ", ".join("x".join(map(str, picture.shape[1::-1])) for picture in pictures)
    noun = "picture" if len(pictures) == 1 else "pictures"
    told = f"{len(pictures)} {noun} of {sizes} pixels" if pictures else "no picture"
    characters = len("\n".join(part.text for part in parts if isinstance(part, TextPart)))
    report.add("prompt", f"{characters} characters and {told}")
    report.prompt = _written(messages, images, folder)
    return max((max(picture.shape[:2]) for picture in pictures), default=0)


def _written(messages: Sequence[Message], images: MemoryImageStore, folder: Path | None) -> dict[str, Any]:
    """The messages, their text, and the pictures' files: with a folder these are there, beside the text in `prompt.txt`."""
    told, lines, paths = [], [], []
    for message in messages:
        content: list[dict[str, str]] = []
        lines.append(f"[{message.role}]")
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
                lines.append(part.text)
                continue
            name = f"picture_{len(paths) + 1}.png"
            paths.append(name if folder is None else str(folder / name))
            content.append({"type": "image", "hash": part.image_hash})
            lines.append(f"[picture: {paths[-1]}]")
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(image_to_png(images.get(part.image_hash)))
        told.append({"role": message.role, "content": content})
    text = "\n".join(lines)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prompt.txt").write_text(text + "\n", encoding="utf-8")
    return {"messages": told, "pictures": [] if folder is None else paths, "text": text}


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
