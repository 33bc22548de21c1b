"""`python -m walks SEED`: print the walk of a seed, run it, and print how each command ended; `--shrink` reduces it if it fails."""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from ruamel.yaml import YAML


def main() -> int:
    """Return 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m walks", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="of the walk")
    parser.add_argument("--case", type=Path, help="a file of tests/walks/cases instead of a seed")
    parser.add_argument("--folder", type=Path, help="where it runs and stays; default: a temporary folder")
    parser.add_argument("--invariants", action="store_true", help="check them, too")
    parser.add_argument("--shrink", action="store_true", help="reduce a walk that fails, and print it as a case")
    arguments = parser.parse_args()
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    from walks.invariants import judge_walk  # imports torch
    from walks.scenario import Walk, read_case
    from walks.shrinking import shrink_failure
    from walks.workflow import draw_walk

    walk = Walk.from_document(read_case(arguments.case)) if arguments.case else draw_walk(arguments.seed)
    _print(asdict(walk))
    with tempfile.TemporaryDirectory() as scratch:
        judged = judge_walk(walk, arguments.folder or Path(scratch, "walk"), invariants=arguments.invariants)
        for command, done in judged.done:
            print("not run" if done is None else done.code, command)
        for failure in judged.failures:
            print(f"\nFAILED {failure.signature}\n{failure.detail}")
        if judged.failures and arguments.shrink:
            print("\nshrunk to")
            _print(asdict(shrink_failure(walk, judged.failures[0], Path(scratch), invariants=arguments.invariants)))
    return int(bool(judged.failures))


def _print(document: dict[str, object]) -> None:
    yaml = YAML()
    yaml.width = 140
    yaml.dump(document, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
