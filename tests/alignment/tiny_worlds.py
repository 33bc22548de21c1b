"""A folder for runs on prompts: two files of prompts, a policy, and judges that classify texts."""

from pathlib import Path

from tiny_files import write_rows
from tiny_runs import pretrain, write_corpus, write_recipe


def write_world(folder: Path, *judges: str) -> list[str]:
    """Train the policy `base` and the judges, each with its own seed; return the words of the corpus."""
    corpus = write_corpus(folder / "corpus")
    words = corpus.joinpath("0.txt").read_text(encoding="utf-8").split()
    for name, start in (("prompts", 0), ("others", 100)):
        write_rows(folder / f"{name}.jsonl", [{"prompt": " ".join(words[place : place + 3])} for place in range(start, start + 36, 3)])
    write_rows(folder / "labelled.jsonl", [{"text": " ".join(words[i : i + 4]), "label": ["no", "yes"][i % 2]} for i in range(40)])
    recipe = write_recipe(folder, corpus)
    pretrain(folder / "base", recipe, "training.steps=4").exits(0)
    given = ["objective={kind: classification}", f"data.train.0.path={folder}/labelled.jsonl", "training.steps=4"]
    for seed, name in enumerate(judges):
        pretrain(folder / name, recipe, *given, f"training.seed={seed}").exits(0)
    return words
