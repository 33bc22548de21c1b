"""benchmarks/scaling.py: every setup takes its turns, and is compared with the first one in the same round."""

import pytest
import scaling


def test_each_setup_takes_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[scaling.Setup] = []

    class Recorded(scaling.Setup):
        def __init__(self, name: str, steps: int, precision: str):
            self.name, self.steps, self.ended, self.turns = name, steps, False, 0
            started.append(self)

        def turn(self) -> float:
            self.turns += 1
            return {"1": 2.0, "2": 1.0}[self.name[0]] * self.turns

        def end(self) -> None:
            self.ended = True

    monkeypatch.setattr(scaling, "Setup", Recorded)
    found = scaling.compare(3, 1, "fp32")
    assert [one.turns for one in started] == [4] * len(scaling.SETUPS)  # the first is not counted
    assert all(one.ended for one in started)
    assert [found["ratios"][name] for name in scaling.SETUPS] == [[1.0] * 3, [2.0] * 3, [2.0] * 3]
