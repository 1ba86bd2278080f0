"""Films of episodes: each step a frame, written as WebP, GIF or MP4. One frame is in memory at a time."""

import importlib.util
import io
import math
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import getdata

from eyas.errors import ConfigError, DatasetError, EyasError
from eyas.evaluation.figures import action_name, frame_hash, outcome, picture, thought
from eyas.evaluation.film_frame import HEIGHT, WIDTH, Bar, Shot, draw
from eyas.files import write_atomically
from eyas.types import ImageSource, ParsedAction, Step, TextPart, Trajectory

FORMATS = ("webp", "gif", "mp4")
_LONGEST_S = 60.0  # of a film whose pace is not given
_STEP_S, _LEAST_STEP_S, _LAST_S = 1.2, 0.1, 2.5
_RATE = 10  # frames a second in a video, where a step is shown as many equal ones
# Every frame is whole: of one that only says what changed, the last text shines through.
_WEBP = {"quality": 85, "kmin": 0, "kmax": 1, "loop": 0}

Frames = Iterator[Image.Image]


# ----------------------------------------------------------------------------------------------- what is shown


def shots(trajectory: Trajectory, heading: str, name_of: Callable[[Any], str]) -> list[Shot]:
    """A shot a step. `name_of` says how an action is called that was scored and not chosen."""
    earned, shown = trajectory.return_before, []
    for index, step in enumerate(trajectory.steps):
        reward = float(step.reward.terms.get("environment", 0.0))
        earned += reward
        last = step.messages[-1].parts if step.messages else ()
        shot = Shot(
            heading=heading,
            step=trajectory.first_step + index + 1,
            num_steps=trajectory.num_steps,
            image_hash=frame_hash(step),
            text="\n".join(part.text for part in last if isinstance(part, TextPart)),
            thought=_thought(step),
            action=action_name(step),
            executed_by=step.executed_by.value,
            reward=reward,
            return_so_far=earned,
            bars=_bars(step, name_of),
            outcome=outcome(trajectory) if index == len(trajectory.steps) - 1 else None,
        )
        shown.append(shot)
    return shown


def _thought(step: Step) -> str:
    if isinstance(step.parse, ParsedAction):
        return thought(step)
    return f"[{thought(step)}] {step.completion.text}" if step.completion.text else ""


def _bars(step: Step, name_of: Callable[[Any], str]) -> tuple[Bar, ...]:
    scores = step.completion.scores
    if scores is None:
        return ()
    legal, count = step.legal_actions, len(scores.candidates)
    names = [name_of(a) for a in legal] if legal is not None and len(legal) == count else ["?"] * count
    if isinstance(step.parse, ParsedAction) and scores.chosen < count:
        names[scores.chosen] = step.parse.name
    shares = np.exp(np.minimum(scores.logprobs.astype(np.float64), 0))
    return tuple(Bar(names[i], float(shares[i]), i == scores.chosen) for i in range(count))


# ----------------------------------------------------------------------------------------------- writing


def check_format(form: str) -> None:
    """Raises `ConfigError` where what a format needs is not installed."""
    if form == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError("MP4 needs imageio-ffmpeg: type `pip install eyas[viewer]`, or choose --format webp")


def write_film(
    shots: Sequence[Shot], images: ImageSource, path: Path, form: str = "webp", seconds: float | None = None
) -> None:
    """Writes a film in one of `FORMATS`, whole or not at all.

    A step stays for `seconds`; None: as long as lets a long episode pass in a minute. The last one stays longer. Raises
    `DatasetError` where there is nothing to show, `ConfigError` where the encoder of MP4 is not installed.
    """
    check_format(form)
    frames, durations = _frames(shots, images), _durations(shots, seconds)
    write_atomically(path.absolute(), lambda file: _WRITERS[form](frames, durations, file))


def gif_bytes(shots: Sequence[Shot], images: ImageSource) -> bytes:
    """A GIF, for those who take films as bytes."""
    buffer = io.BytesIO()
    _write_gif(_frames(shots, images), _durations(shots, None), buffer)
    return buffer.getvalue()


def _frames(shots: Sequence[Shot], images: ImageSource) -> Frames:
    if not shots:
        raise DatasetError("the episode has no steps to film: choose another one")
    return (draw(shot, picture(shot.image_hash, images)) for shot in shots)


def _durations(shots: Sequence[Shot], seconds: float | None) -> list[int]:
    """Milliseconds of each shot; a hundredth of a second is what GIF can tell apart."""
    if seconds is None:
        seconds = min(_STEP_S, max(_LEAST_STEP_S, _LONGEST_S / max(1, len(shots))))
    step = max(20, 10 * round(100 * seconds))
    return [step if shot.outcome is None else max(step, int(1000 * _LAST_S)) for shot in shots]


class _Later:
    """Looks to Pillow like a picture of several frames: each is drawn when it is sought, and the one before let go."""

    def __init__(self, frames: Frames, count: int) -> None:
        self.n_frames, self._frames = count, frames

    def seek(self, index: int) -> None:
        self._current = next(self._frames)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)


def _write_webp(frames: Frames, durations: list[int], file: Any) -> None:
    first, later = next(frames), _Later(frames, len(durations) - 1)
    first.save(file, format="WEBP", save_all=True, append_images=[later], duration=durations, **_WEBP)


def _write_gif(frames: Frames, durations: list[int], file: Any) -> None:
    """GIF89a by hand, each frame with its own colours: Pillow's own writer keeps every frame until the end."""
    file.write(b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0, 0, 0))
    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # plays for ever
    for frame, duration in zip(frames, durations, strict=True):
        file.writelines(getdata(frame.quantize(256), duration=duration, include_color_table=True))
    file.write(b";")


def _write_mp4(frames: Frames, durations: list[int], file: Any) -> None:
    import imageio_ffmpeg

    shape = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(_RATE)]
    codec = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", "-f", "mp4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *shape, "-i", "-", *codec, f"file:{file.name}"]
    with (
        tempfile.TemporaryFile() as problems,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=problems) as encoder,
    ):
        assert encoder.stdin is not None
        try:
            for data in _repeated(frames, durations):
                encoder.stdin.write(data)
            encoder.stdin.close()
        except BrokenPipeError:  # it has ended, and said why
            pass
        if encoder.wait():
            problems.seek(0)
            why = problems.read(2000).decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise EyasError(f"the video encoder failed ({why[-1]}): choose --format webp")


def _repeated(frames: Frames, durations: Iterable[int]) -> Iterator[bytes]:
    for frame, duration in zip(frames, durations, strict=True):
        data = frame.tobytes()
        for _ in range(math.ceil(duration * _RATE / 1000)):
            yield data


_WRITERS = {"webp": _write_webp, "gif": _write_gif, "mp4": _write_mp4}
