import importlib.util
import lzma
import math
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


def load_script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


baselines = load_script("baselines")


def test_a_tiny_bigram_equals_the_hand_computed_one() -> None:
    """Documents 0 1 2 1 and 0 1 1 over four entries: pairs 01 12 21 01 11, so the followers are 1 2 1 1 1."""
    model = baselines.WittenBell([[0, 1, 2, 1], [0, 1, 1]], vocab_size=4)
    unigram = [(0 + 2 / 4) / 7, (4 + 2 / 4) / 7, (1 + 2 / 4) / 7, (0 + 2 / 4) / 7]
    assert model.unigram.tolist() == pytest.approx(unigram)
    expected = {
        (0, 1): (2 + 1 * unigram[1]) / (2 + 1),
        (0, 3): (0 + 1 * unigram[3]) / (2 + 1),
        (1, 1): (1 + 2 * unigram[1]) / (2 + 2),
        (1, 0): (0 + 2 * unigram[0]) / (2 + 2),
        (2, 1): (1 + 1 * unigram[1]) / (1 + 1),
        (3, 2): unigram[2],  # never seen as a head
    }
    for (head, follower), probability in expected.items():
        assert model.probabilities(np.array([head]), np.array([follower])).item() == pytest.approx(probability)
    assert model.bits([0, 1, 1, 0]) == pytest.approx(-sum(math.log2(expected[pair]) for pair in [(0, 1), (1, 1), (1, 0)]))


@given(st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=20), min_size=1, max_size=5))
def test_every_row_of_the_bigram_sums_to_one(documents: list[list[int]]) -> None:
    vocab_size = 11
    model = baselines.WittenBell(documents, vocab_size)
    for head in range(vocab_size):
        row = model.probabilities(np.full(vocab_size, head), np.arange(vocab_size))
        assert (row > 0).all()
        assert row.sum() == pytest.approx(1)


def test_nothing_after_the_first_id_costs_nothing() -> None:
    assert baselines.WittenBell([[0, 1]], 3).bits([0]) == 0


def test_primed_sizes_are_those_of_two_whole_streams() -> None:
    draw = random.Random(1)
    words = [bytes(draw.choices(b"abcdefghij", k=6)) for _ in range(200)]
    training = b" ".join(draw.choices(words, k=20_000))
    files = [b" ".join(draw.choices(words, k=300)), b"", bytes(draw.choices(b"0123456789", k=500))]
    alone = len(lzma.compress(training, preset=baselines.XZ_9E))
    expected = [len(lzma.compress(training + file, preset=baselines.XZ_9E)) - alone for file in files]
    assert baselines.primed_xz_sizes(training, files) == expected
    assert expected[0] < baselines.xz_sizes(files)[0]


@pytest.mark.skipif(sys.platform == "win32", reason="posix_spawn")
def test_startup_measures_a_process_and_names_a_failing_one() -> None:
    startup = load_script("startup")
    seconds, peak = startup.measure([sys.executable, "-c", "pass"])
    assert 0 < seconds < 60
    import resource  # not on Windows

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # a process begins with the peak of the one that spawned it
    assert 1 < peak < own + 100
    with pytest.raises(SystemExit, match="ended with 3"):
        startup.measure([sys.executable, "-c", "raise SystemExit(3)"])
    assert 0.0 < startup.until_output([sys.executable, "-c", "print(1)"]) < 60.0
    with pytest.raises(SystemExit, match="ended with 3"):
        startup.until_output([sys.executable, "-c", "raise SystemExit(3)"])
