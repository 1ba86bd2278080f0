"""Lets torchvision's wheel for GPUs be imported beside a torch for CPUs, where its compiled part does not load.

Its Python part refuses to start without the schemas of two operators (boxes, which nothing here uses): they are defined
at the top of the installed package. Run it with the environment's own Python: `.venv-vllm/bin/python FILE`.
"""

from importlib.util import find_spec
from pathlib import Path

LINES = """import torch as _torch
_library = _torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

spec = find_spec("torchvision")
assert spec is not None and spec.origin is not None
package = Path(spec.origin)
if LINES not in package.read_text():
    package.write_text(LINES + package.read_text())
