"""tfkit evaluate on labelled rows of every kind: metrics, predictions and intervals that agree with each other, and with the training."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import seqeval.metrics
from answer_runs import KINDS, made_rows
from scipy import stats
from sklearn import metrics as sklearn_metrics
from tiny_files import read_rows, receipt, write_rows
from tiny_runs import evaluate, records, run_tfkit

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import Meter, Reading
from tfkit.engine.inference.evaluator import Evaluator
from tfkit.engine.inference.predicting import open_predictor
from tfkit.engine.inference.session import Session
from tfkit.engine.listener import Silent
from tfkit.engine.results import EvaluationResult
from tfkit.objectives.metrics import texts
from tfkit.parallel.rank_map import RankMap, serial_map
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.objective_sections import TEXT_METRICS
from tfkit.run.signals import interrupts
from tfkit.training.isolation import isolated

pytestmark = pytest.mark.usefixtures("in_place")

SAID: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {  # what a line of the predictions says of its row, by the names of its parts
    "classes": lambda row: {"text": row["text"], "label": row["label"]},
    "numbers": lambda row: {"text": row["text"], "pair": row["other"], "value": row["size"]},
    "tags": lambda row: {"tokens": row["words"], "tags": row["names"]},
    "parts": lambda row: {"tokens": row["words"], "tags": row["parts"]},
    "sets": lambda row: {"text": row["text"], "labels": row["kinds"]},
    "spans": lambda row: {"question": row["first"], "context": row["text"], "answers": [row["asked"][0]["text"]]},
    "choices": lambda row: {"context": row["text"], "choices": [row["other"], row["third"]], "right": row["right"]},
    "texts": lambda row: {"source": row["text"], "references": row["answers"]},
    "chat": lambda row: {"messages": row["talk"], "references": [row["talk"][-1]["content"]]},
}


@pytest.fixture
def place(answers: Path) -> Path:
    return answers


def judged(folder: Path, *words: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result, and the lines of the predictions."""
    path = folder / "predictions.jsonl"
    done = evaluate(folder, *words, "--json", "--predictions", str(path)).exits(0)
    return done.document, read_rows(path)


def recomputed(name: str, said: list[dict[str, Any]]) -> dict[str, float]:
    """Metrics of the lines of a predictions' file, by other hands than ours."""

    def column(key: str) -> list[Any]:
        return [one[key] for one in said]

    if name == "classes":
        targets, predictions = column("label"), column("predicted")
        return {
            "loss": float(np.mean(column("loss"))),
            "accuracy": sklearn_metrics.accuracy_score(targets, predictions),
            "f1_macro": sklearn_metrics.f1_score(targets, predictions, average="macro"),
            "matthews": sklearn_metrics.matthews_corrcoef(targets, predictions),
        }
    if name == "numbers":
        targets, predictions = np.array(column("value")), np.array(column("predicted"))
        return {
            "loss": float(np.mean((targets - predictions) ** 2)),
            "rmse": math.sqrt(np.mean((targets - predictions) ** 2)),
            "pearson": stats.pearsonr(targets, predictions)[0],
            "spearman": stats.spearmanr(targets, predictions)[0],
        }
    if name in ("tags", "parts"):
        words = [(tag, other) for one in said for tag, other in zip(one["tags"], one["predicted"], strict=True)]
        found = {
            "accuracy": float(np.mean([tag == other for tag, other in words])),
            "f1_macro": sklearn_metrics.f1_score(*zip(*words, strict=True), average="macro"),
        }
        names = {"f1": seqeval.metrics.f1_score(column("tags"), column("predicted"))} if name == "tags" else {}
        return found | names
    if name == "sets":
        order = ["cat", "dog", "place"]
        right, mine = (np.array([[label in labels for label in order] for labels in column(key)]) for key in ("labels", "predicted"))
        found = {f"f1_{kind}": sklearn_metrics.f1_score(right, mine, average=kind, zero_division=0) for kind in ("micro", "macro")}
        return found | {"exact_match": sklearn_metrics.accuracy_score(right, mine), "loss": float(np.mean(column("loss")))}
    if name == "spans":
        articles = {"a", "the"}  # which the scores leave out
        answers = [[word for word in text.split() if word not in articles] for text in column("predicted")]
        right = [[word for word in texts[0].split() if word not in articles] for texts in column("answers")]
        return {"exact_match": float(np.mean([one == other for one, other in zip(answers, right, strict=True)]))}
    if name == "choices":
        assert all(one["predicted"] == int(np.argmax(one["scores"])) for one in said)
        return {"accuracy": float(np.mean([one["predicted"] == one["right"] for one in said]))}
    references = column("references")
    streams = [[one[place] if place < len(one) else None for one in references] for place in range(max(map(len, references)))]
    return {
        "exact_match": float(np.mean([one["text"] in one["references"] for one in said])),
        "bleu": sacrebleu.corpus_bleu(column("text"), streams).score,
        "chrf": sacrebleu.corpus_chrf(column("text"), streams).score,
    }


def assert_said_of_rows(name: str, said: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    wanted = [*map(SAID[name], rows)]
    assert [{part: line[part] for part in parts} for line, parts in zip(said, wanted, strict=True)] == wanted


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_answer(place: Path, tmp_path: Path, name: str) -> None:
    result, said = judged(tmp_path, "--from", name)
    rows = read_rows(place / "test.jsonl")
    assert [one["place"] for one in said] == [f"test.jsonl:{line}" for line in range(1, len(rows) + 1)]
    assert vars(EvaluationResult.of(result, predictions=said)).keys() >= result.keys() - {"schema_version"}
    metrics = result["metrics"]
    wanted = recomputed(name, said)
    assert {metric: metrics[metric] for metric in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert set(metrics) <= set(read_recipe(f"{name}.yaml").recipe.objective.metrics)  # what --fail-if may ask for
    of_training = records(place / name)[-1]["evaluation"]  # by the training itself, at its end
    assert {metric: value for metric, value in metrics.items() if metric in of_training} == pytest.approx(of_training, rel=1e-5)
    if name == "classes":
        assert result["baselines"] == receipt(place / name)["result"]["baselines"]
        assert [*result["baselines"]] == ["most_frequent_class", "naive_bayes"]
    assert result["intervals"].keys() == metrics.keys()
    assert all(low <= metrics[metric] <= high for metric, (low, high) in result["intervals"].items() if metric in ("loss", "accuracy"))
    assert result["bootstrap"] == 60
    assert_said_of_rows(name, said, rows)
    assert ("decoding" in result) == (name in ("texts", "chat"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", KINDS)
def test_the_batch_does_not_matter_and_is_reported(place: Path, tmp_path: Path, name: str) -> None:
    (result, said), (other, others) = (
        judged(tmp_path, "--from", name, f"evaluation.batch_size={size}", "evaluation.bootstrap=20") for size in (1, 7)
    )
    assert (result["batch_size"], other["batch_size"]) == (1, 7)
    assert result["metrics"] == pytest.approx(other["metrics"], rel=1e-5)
    assert {metric: pytest.approx(ends, rel=1e-4, abs=1e-6) for metric, ends in result["intervals"].items()} == other["intervals"]
    assert [{key: nearly(value) for key, value in one.items()} for one in said] == others


def nearly(value: Any) -> Any:
    """Numbers up to rounding."""
    inner = [*value.values()] if isinstance(value, dict) else value
    numbers = isinstance(inner, list) and inner and isinstance(inner[0], float)
    return pytest.approx(value, rel=1e-4, abs=1e-5) if numbers or isinstance(value, float) else value


def test_beams_and_greedy_texts_are_the_models_best(place: Path, tmp_path: Path) -> None:
    """The texts are those of `tfkit generate` at temperature 0, or with beams; never sampled ones."""
    source = read_rows(place / "test.jsonl")[0]["text"]
    for words in (["generation.num_beams=1"], ["generation.num_beams=3", "generation.length_penalty=0.5"]):
        result, said = judged(tmp_path, "--from", "texts", *words, "evaluation.text_metrics=[chrf]")
        command = ["generate", "--from", "texts", "--prompt", source, "--temperature", "0", *words]
        assert said[0]["text"] == run_tfkit(tmp_path, command).out.strip()
        assert result["decoding"]["num_beams"] == int(words[0][-1])
        assert {"chrf"} == result["metrics"].keys() & TEXT_METRICS.keys()
    none = evaluate(tmp_path, "--from", "texts", "evaluation.text_metrics=[]", "--json").document
    assert not none["metrics"].keys() & TEXT_METRICS.keys()
    assert "decoding" not in none


def test_bad_rows_sets_and_a_limit(place: Path, tmp_path: Path) -> None:
    """Rows that are left out shift no reference; each set is reported; max_tokens takes the first rows."""
    rows = read_rows(place / "test.jsonl")
    bad = [*rows[:3], rows[3] | {"answers": []}, {"nothing": 1}, *rows[5:9]]
    write_rows(tmp_path / "bad.jsonl", bad)
    file = f"path: {json.dumps(str(tmp_path / 'bad.jsonl'))}, columns: {{source: text, target: answers}}"
    sets = [f"data.validation=[{{{file}}}, {{path: train.jsonl, name: seen, columns: {{source: other, target: answers}}}}]"]
    words = ["--from", "texts", *sets, "data.on_bad_row=skip", "evaluation.text_metrics=[exact_match, chrf]"]
    result, said = judged(tmp_path, *words)
    assert [one["place"].rpartition("/")[2] for one in said[:7]] == [f"bad.jsonl:{line}" for line in (1, 2, 3, 6, 7, 8, 9)]
    assert [one["references"] for one in said[:7]] == [row["answers"] for row in (*rows[:3], *rows[5:9])]
    assert (result["examples"], len(said)) == (7 + 26, 7 + 26)
    first, seen = (recomputed("texts", part) for part in (said[:7], said[7:]))
    metrics = result["metrics"]
    assert (metrics["1.chrf"], metrics["seen.chrf"]) == (pytest.approx(first["chrf"]), pytest.approx(seen["chrf"]))
    assert metrics["chrf"] == pytest.approx(recomputed("texts", said)["chrf"])
    evaluate(tmp_path, *words, "--fail-if", "seen.chrf >= 0").exits(8)
    limited, fewer = judged(tmp_path, *words, "evaluation.max_tokens=30", "evaluation.batch_size=2")
    assert 0 < limited["examples"] == len(fewer) < 7
    for part in (said[:7], said[7:]):  # of each set its first rows
        few = [one for one in fewer if one["place"] in {row["place"] for row in part}]
        assert part[: len(few)] == [{key: nearly(value) for key, value in one.items()} for one in few]
    same, _ = judged(tmp_path, *words, "evaluation.max_tokens=30", "evaluation.batch_size=5")
    assert same["metrics"] == pytest.approx(limited["metrics"], rel=1e-5)


def test_rows_that_share_an_input_are_references_of_one_text(place: Path, tmp_path: Path) -> None:
    """As the same answers in a list in one row: each input is written once, and counts once."""
    rows = read_rows(place / "test.jsonl")
    listed: dict[str, list[str]] = {}
    for row in rows:
        listed.setdefault(row["text"], []).extend(row["answers"])
    joined = [{"text": text, "answers": list(dict.fromkeys(answers))} for text, answers in listed.items()]
    apart = [{"text": row["text"], "answers": row["answers"][n : n + 1]} for n in range(9) for row in joined if n < len(row["answers"])]
    assert len(apart) > len(joined)
    found = []
    for name, written in (("joined", joined), ("apart", apart)):
        write_rows(tmp_path / f"{name}.jsonl", written)
        words = ["data.validation.0.columns={instruction: text, output: answers}", "evaluation.bleu_tokenize=char"]
        found.append(judged(tmp_path, "--from", "chat", "--data", str(tmp_path / f"{name}.jsonl"), *words))
    (whole, lines), (split, each) = found
    for metric in TEXT_METRICS:
        assert split["metrics"][metric] == pytest.approx(whole["metrics"][metric], rel=1e-9), metric
        assert split["intervals"][metric] == pytest.approx(whole["intervals"][metric], rel=1e-9), metric
    assert (whole["examples"], split["examples"]) == (len(joined), len(apart))
    assert (split["inputs"], split["references"]) == (len(joined), len(apart)) == (whole["inputs"], whole["references"])
    streams = [[one["references"][place] if place < len(one["references"]) else None for one in lines] for place in range(3)]
    bleu = sacrebleu.corpus_bleu([one["text"] for one in lines], streams, tokenize="char").score
    assert whole["metrics"]["bleu"] == pytest.approx(bleu)
    wanted = {row["text"]: {"text": line["text"], "references": row["answers"]} for row, line in zip(joined, lines, strict=True)}
    assert [{name: one[name] for name in ("text", "references")} for one in each] == [wanted[row["text"]] for row in apart]
    done = evaluate(tmp_path, "--from", "chat", "--data", str(tmp_path / "apart.jsonl"), *words, "evaluation.bootstrap=null")
    assert f"{len(apart)} rows of {len(joined)} inputs, with {len(apart)} references" in done.out


def test_gates_are_of_the_metrics_of_the_objective(place: Path, tmp_path: Path) -> None:
    start = ["--from", "classes"]
    evaluate(tmp_path, *start, "--fail-if", "f1_macro < 0", "--fail-if", "matthews > 1").exits(0)
    evaluate(tmp_path, *start, "--fail-if", "majority > 0").exits(8)
    evaluate(tmp_path, *start, "--fail-if", "perplexity > 1").exits(2, "the metrics are loss, accuracy, f1_macro")
    evaluate(tmp_path, *start, "--fail-if", "rmse > 1").refuses(2, "unknown metric 'rmse'; the metrics are loss, accuracy, f1_macro")
    texts = ["--from", "texts", "evaluation.text_metrics=[exact_match]"]
    evaluate(tmp_path, *texts, "--fail-if", "bleu < 20").exits(2, "unknown metric 'bleu'")
    assert evaluate(tmp_path, *texts, "--fail-if", "beats_baseline > 1", "--json").exits(0).document["beats_baseline"] in (0, 1)
    evaluate(tmp_path, *texts[:2], "evaluation.text_metrics=[]", "--fail-if", "beats_baseline < 1").exits(2, "unknown metric 'beats_bas")
    # All sizes equal: nothing correlates with them, and what is not a number fails any gate.
    same = write_rows(tmp_path / "same.jsonl", [{"text": "the cat", "other": "a dog", "size": 1}] * 3)
    done = evaluate(tmp_path, "--from", "numbers", "--data", same, "--fail-if", "pearson < -1", "--json").exits(8)
    assert done.document["metrics"]["pearson"] is None


def test_hidden_words_are_scored_as_the_training_scored_them(starts: Path, tmp_path: Path) -> None:
    start = ["--from", starts / "bert", "--json"]
    found, few = (evaluate(tmp_path, *start, f"evaluation.max_tokens={most}").exits(0).document for most in (300, 100))
    assert found["metrics"] == pytest.approx(records(starts / "bert")[-1]["evaluation"], rel=1e-5)
    assert found["baselines"] == {}
    assert 0 < few["tokens"] <= 100 < found["tokens"]
    assert 0 < few["examples"] < found["examples"]


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    start = ["--from", "classes"]
    evaluate(tmp_path, *start, "objective={kind: masked_lm}").exits(2, "needs a head of kind masked_lm, not classes")
    other = write_rows(tmp_path / "other.jsonl", [{"text": "the cat", "label": "neither"}])
    evaluate(tmp_path, *start, "--data", other).exits(3, "other.jsonl:1: the label 'neither' is none of blue, green, red")
    evaluate(tmp_path, *start, "objective.labels=[a, b]").exits(2, "names 2 classes")


def test_a_missing_library_is_reported_before_anything_is_read(place: Path, tmp_path: Path) -> None:
    def before() -> None:
        texts._LIBRARIES["bleu"] = "no_such_library"

    done = run_tfkit(tmp_path, ["evaluate", "--from", "texts", "--threads", "1"], before).exits(5, "pip install -e '.[eval]'")
    assert "scoring" not in done.err


def test_a_checkpoint_from_elsewhere_needs_no_recipe(place: Path, tmp_path: Path) -> None:
    [checkpoint] = (place / "classes" / "checkpoints").glob("step-*")
    elsewhere = shutil.copytree(checkpoint, tmp_path / "model", ignore=shutil.ignore_patterns("training_state"))
    given = ["--from", elsewhere, "--data", "test.jsonl", "--json", "carbon.enabled=false"]
    found, own = (evaluate(tmp_path, *words).exits(0).document for words in (given, ["--from", "classes", "--json"]))
    assert found["metrics"] == pytest.approx(own["metrics"], rel=1e-5)
    assert [*found["baselines"]] == ["most_frequent_class_of_scored_rows"], "the training rows are not known"
    other = evaluate(tmp_path, *given, "data.validation.0.columns={text: other}", "objective={kind: classification}")
    assert other.document["metrics"]["loss"] != own["metrics"]["loss"]
    evaluate(tmp_path, *given, "objective={kind: tagging}").exits(4, "needs a head of kind tags, not classes")


def test_other_data_are_read_by_the_columns_of_the_training(tmp_path: Path) -> None:
    result, said = judged(tmp_path, "--from", "tags", "--data", "train.jsonl")
    assert (len(said), said[0]["place"], result["metrics"]["loss"] > 0) == (26, "train.jsonl:1", True)
    start, columns = ["--from", "numbers", "--json"], "data.validation.0.columns={text: text, pair: third, label: size}"
    recorded, own, other = (
        evaluate(tmp_path, *start, *words).exits(0).document["metrics"]
        for words in ([], ["--data", "test.jsonl"], ["--data", "test.jsonl", columns])
    )
    assert own == pytest.approx(recorded, rel=1e-5)
    assert own != other


def test_figures_of_each_class(place: Path, tmp_path: Path) -> None:
    """In the result objects of their own, which agree with the predictions; in the log of the training; on the terminal tables."""
    for name, wanted in (("classes", {"classes", "confusion"}), ("tags", {"classes", "confusion", "entities"}), ("numbers", set())):
        result, said = judged(tmp_path, "--from", name)
        assert result.keys() & {"classes", "confusion", "entities"} == wanted
        assert records(place / name)[-1].get("confusion") == result.get("confusion")
        assert {part: one["rows"] for part, one in receipt(name)["data_sizes"].items()} == {"train": 26, "validation": 24}
        if name == "numbers":
            continue
        key = "label" if name == "classes" else "tags"
        pairs = [(one[key], one["predicted"]) for one in said]
        pairs = pairs if name == "classes" else [pair for one in pairs for pair in zip(*one, strict=True)]
        assert {(right, other): n for right, row in result["confusion"].items() for other, n in row.items()} == Counter(pairs)
        assert np.mean([one["f1"] for one in result["classes"].values()]) == pytest.approx(result["metrics"]["f1_macro"])
    scores, classes, confusion = (table.splitlines() for table in evaluate(tmp_path, "--from", "classes").out.split("\n\n"))
    facts = ["baselines", "verdict", "scored", "data", "checkpoint"]
    assert [line.split("  ")[0] for line in scores] == ["loss", "accuracy", "f1 macro", "matthews", *facts]
    for said in (r"baselines   accuracy 0\.\d+ most frequent class, ", r".*  \(95 %: 0\.", ".*24 rows"):
        assert any(re.match(said, line) for line in scores), said
    assert (len(classes), classes[0].split()) == (4, ["class", "precision", "recall", "f1", "support"])
    assert (len(confusion), confusion[0].split()) == (4, ["label", "\\", "predicted", "blue", "green", "red"])
    tables = evaluate(tmp_path, "--from", "tags").out.split("\n\n")
    assert [line.split()[0] for line in tables[1].splitlines()] == ["entity", "animal"]


@pytest.mark.thorough
def test_predictions_have_what_was_asked_and_the_probabilities(place: Path, tmp_path: Path) -> None:
    """By the names of the parts of a row; also where the file lies elsewhere than when it was first read."""
    rows = read_rows(place / "test.jsonl")
    (tmp_path / "test.jsonl").write_bytes((place / "test.jsonl").read_bytes())
    for name in ("classes", "numbers", "tags", "choices", "texts", "chat"):
        judged(tmp_path, "--from", name)  # so that the cache has another path
        _, said = judged(tmp_path, "--from", name, "--data", str(tmp_path / "test.jsonl"))
        assert_said_of_rows(name, said, rows)
        assert said[0]["place"] == f"{tmp_path}/test.jsonl:1"
        for one in said if name == "classes" else []:
            assert [*one["probabilities"]] == ["blue", "green", "red"]
            assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-6)
            assert one["probabilities"][one["predicted"]] == pytest.approx(one["probability"], rel=1e-6)


# -- results of a rank reach the others as JSON without loss, for every objective


def through_json(compute: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
    return (json.loads(json.dumps(compute(item))) for item in items)


def evaluated_and_predicted(run: str, deal: RankMap) -> list[Any]:
    changes = {"evaluation.batch_size": 5}
    with isolated(), interrupts(None) as stop:
        session = Session(stop, Silent(), Meter(), None, Reading(), False, "cpu", 1, deal=deal)
        _, found = Evaluator(run, None, changes, None, CodePermission()).compute(session, each=True)
        predictor = open_predictor(run, changes, all_labels=True)
        asked = predictor.given_rows([row | {"talk": row["talk"][:-1]} for row in made_rows(30)[20:]])
        predictor.load(session)
        predicted = [line for window in predictor.windows(asked) for line in window]
    assert found.scores is not None
    return [found.metrics, found.predictions, found.facts, found.baselines, predicted]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", KINDS)
def test_evaluations_and_predictions_are_the_same_through_json(name: str) -> None:
    assert repr(evaluated_and_predicted(name, through_json)) == repr(evaluated_and_predicted(name, serial_map))
