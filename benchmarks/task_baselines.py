"""Baselines without a Transformer on the rows of a recipe: the bar for each run in recipes/README.md.

    python benchmarks/task_baselines.py sentence-polarity --test test.csv
    python benchmarks/task_baselines.py smollm2-english --pairs BLiMP.zip --from runs/smollm2-english

Classes, tags, choices: those of tfkit/evaluation/baselines.py. Texts to generate: the source
itself, its first sentence, the name of a function. Pairs of sentences: the one whose tokens are more frequent in the training text.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_runs import labelled_rows

from tfkit.evaluation.baselines import baselines
from tfkit.objectives.metrics import unit_weights
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.sections import Recipe

Metrics = Mapping[str, float]
Values = Sequence[Mapping[str, Any]]  # each row's value for each role


def main() -> None:
    options = parse()
    from tfkit.recipe import read_recipe

    recipe = read_recipe(options.recipe, parse_overrides(options.set)).recipe
    if options.pairs is not None:
        found = {"a unigram of the training text": unigram_pairs(recipe, options.pairs, options.start or sys.exit("give --from CKPT"))}
    else:
        section = recipe.objective
        train, test = labelled_rows(recipe, options.data, test=False), labelled_rows(recipe, options.test, test=True)
        found = dict(texts([row.values for row in test]) if section.answers_in_text else baselines(section, train, test))
        if not found:
            sys.exit(f"{options.recipe}: no baseline is known for {section.kind}")
    for name, metrics in found.items():
        print(f"{name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe with classes, tags or texts; with --pairs one of a language model")
    parser.add_argument("--data", metavar="F", type=Path, help="the labelled rows; else the recipe's data.train")
    parser.add_argument("--test", metavar="F", type=Path, help="the test rows; else the recipe's data.validation")
    parser.add_argument("--pairs", metavar="F", type=Path, help="good and bad sentences, as BLiMP.zip")
    parser.add_argument("--from", dest="start", metavar="CKPT", help="the model whose tokenizer splits the sentences of --pairs")
    parser.add_argument("--set", nargs="*", default=[], metavar="K=V", help="changes to the recipe")
    return parser.parse_args()


def texts(test: Values) -> dict[str, Metrics]:
    """Score the source, its first sentence, and a function's name in words, as generated texts. Nothing is learned."""
    from tfkit.objectives.metrics.texts import reference_metrics

    sources, references = [row["source"] for row in test], [row["target"] for row in test]
    generated = {"the source itself": sources, "its first sentence": [first_sentence(source) for source in sources]}
    names = [function_name(source) for source in sources]
    if all(name is not None for name in names):
        generated["the function's name"] = [name or "" for name in names]
    weights = unit_weights(len(test))
    return {name: reference_metrics(texts, references, ("bleu", "chrf", "rouge"))(weights) for name, texts in generated.items()}


def first_sentence(text: str) -> str:
    """Return the text up to the first full stop, question or exclamation mark before white space."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def function_name(code: str) -> str | None:
    """Return `read_lines` as `read lines`, for code that defines a function first."""
    found = re.search(r"^\s*(?:async\s+)?def\s+(\w+)", code, re.MULTILINE)
    return found and " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", found[1])).lower()


def unigram_pairs(recipe: Recipe, pairs: Path, start: str) -> Metrics:
    """Score the sentence whose tokens are more frequent: each by its fraction of the training text, with one added to every count."""
    from tfkit.data.sources.open_sources import open_source, training_sources
    from tfkit.hub import load
    from tfkit.recipe.schema.data_sections import SourceSection
    from tfkit.recipe.schema.label_sections import MinimalPairsSection

    codec = load(start).codec or sys.exit(f"{start} has no tokenizer")
    counts = np.ones(codec.size)
    for source in training_sources(recipe.data):
        for ids in codec.encode_arrays([row.text for row in source.rows()]):
            counts += np.bincount(ids, minlength=codec.size)
    log_probs = np.log(counts / counts.sum())
    rows = [row.values for row in open_source(SourceSection(path=str(pairs)), "all", None, roles=MinimalPairsSection.roles).rows()]
    good, bad = (np.array([log_probs[ids].sum() for ids in codec.encode_arrays([row[side] for row in rows])]) for side in ("good", "bad"))
    ties = float((good == bad).mean())  # pairs of the same tokens in another order: no unigram distinguishes them
    return {"accuracy": float((good > bad).mean()), "ties": ties, "accuracy with half of the ties": float((good > bad).mean()) + ties / 2}


if __name__ == "__main__":
    main()
