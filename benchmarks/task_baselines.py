"""Baselines without a Transformer on the rows of a recipe: the bar for each run in recipes/README.md.

    python benchmarks/task_baselines.py sentence-polarity --test test.csv
    python benchmarks/task_baselines.py smollm2-english --pairs BLiMP.zip --from runs/smollm2-english

Classes: the most frequent one, and naive Bayes over words. Tags: each word's most frequent tag. Texts to generate: the source
itself, its first sentence, the name of a function. Pairs of sentences: the one whose tokens are more frequent in the training text.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from measured_runs import labelled_rows

from tfkit.objectives.metrics import unit_weights
from tfkit.recipe.schema.sections import Recipe

Metrics = Mapping[str, float]
Values = Sequence[Mapping[str, Any]]  # each row's value for each role


def main() -> None:
    options = parse()
    from tfkit.recipe import read_recipe

    recipe = read_recipe(options.recipe, options.set).recipe
    if options.pairs is not None:
        found = {"a unigram of the training text": unigram_pairs(recipe, options.pairs, options.start or sys.exit("give --from CKPT"))}
    else:
        compute = BASELINES.get(recipe.objective.kind) or sys.exit(f"{options.recipe}: no baseline is known for {recipe.objective.kind}")
        train, test = labelled_rows(recipe, options.data, test=False), labelled_rows(recipe, options.test, test=True)
        found = compute([row.values for row in train], [row.values for row in test])
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


def classes(train: Values, test: Values) -> dict[str, Metrics]:
    """Score the most frequent class of the training rows; multinomial naive Bayes of lower-case words, add-one (as scikit-learn)."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    texts, held_out = ([f"{row['text']} {row.get('pair') or ''}" for row in rows] for rows in (train, test))
    words = CountVectorizer()
    bayes = MultinomialNB().fit(words.fit_transform(texts), [row["label"] for row in train])
    ((often, _),) = Counter(row["label"] for row in train).most_common(1)
    predictions = {"the most frequent class": [often] * len(test), "naive Bayes of words": bayes.predict(words.transform(held_out))}
    targets = [row["label"] for row in test]
    return {name: class_scores(targets, list(labels)) for name, labels in predictions.items()}


def tags(train: Values, test: Values) -> dict[str, Metrics]:
    """Score each word's most frequent tag in the training rows, and the most frequent of all for words that are not in them."""
    from tfkit.objectives.metrics.entities import entity_metrics
    from tfkit.objectives.metrics.tag_spans import mark_spans

    of_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            of_word[word][tag] += 1
    ((often, _),) = sum(of_word.values(), Counter()).most_common(1)
    usual = {word: counts.most_common(1)[0][0] for word, counts in of_word.items()}
    targets = [list(row["tags"]) for row in test]
    found = {}
    for name, predictions in {
        "the most frequent tag": [[often] * len(row["tokens"]) for row in test],
        "each word's most frequent tag": [[usual.get(word, often) for word in row["tokens"]] for row in test],
    }.items():
        marked = mark_spans(sorted({tag for row in targets for tag in row}))
        entities = entity_metrics(targets, predictions)(unit_weights(len(test))) if marked else {}
        found[name] = class_scores([*chain(*targets)], [*chain(*predictions)]) | entities
    return found


def class_scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    from tfkit.objectives.metrics.classes import classification_metrics

    number = {label: place for place, label in enumerate(sorted({*targets, *predictions}))}
    numbers = (np.array([number[label] for label in labels]) for labels in (targets, predictions))
    scores = classification_metrics(*numbers)(unit_weights(len(targets)))
    return {name: scores[name] for name in ("accuracy", "f1_macro")}


def texts(train: Values, test: Values) -> dict[str, Metrics]:
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
    from tfkit.recipe.schema.objective_sections import MinimalPairsSection

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


BASELINES: Mapping[str, Callable[[Values, Values], dict[str, Metrics]]] = {
    "classification": classes,
    "tagging": tags,
    "text_to_text": texts,
}


if __name__ == "__main__":
    main()
