"""Bounds that a viewer which reads rows in Python loops, or a whole run for a page, would not keep."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).parents[3] / "scripts/measure_viewer.py"


def test_a_run_of_twenty_thousand_steps_is_shown_at_once(generator: ModuleType, tmp_path: Path) -> None:
    generator.generate_run(tmp_path / "run", episodes=2000, steps=10, iterations=20, longest=100, conversations=2)
    spec = importlib.util.spec_from_file_location("measure_viewer", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    costs, memory = module.measure(tmp_path / "run")
    assert "episode of 100 steps" in costs and "its 100 pictures" in costs
    slow = {name for name, cost in costs.items() if cost.processor_ms > 500}  # the tests may share the machine
    assert slow <= {"start", "its 100 pictures"}, costs
    assert not memory > 400  # unknown where the system does not tell
