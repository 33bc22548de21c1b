"""Fine-tuning without a recipe: the task is recognised by columns and checkpoint, and printed as a recipe that gives the same weights."""

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import read_json, read_rows, receipt, write_rows
from tiny_runs import WORDS, Done, hashes, kept, pretrain, records, run_tfkit, strike

from tfkit.adapters import describe
from tfkit.adapters import load as load_any
from tfkit.engine.recognition import decided_size
from tfkit.engine.recognition.decided_recipe import _inspect_data
from tfkit.engine.recognition.own_data import _data_name, _model_name
from tfkit.engine.request.evaluation_settings import infer_objective
from tfkit.hub import load
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_sections import metrics_of
from tfkit.recipe.starting_points import DECISIONS
from tfkit.training.memory import trained_bytes

STARTS = {
    "bert": [
        *("model={preset: bert-tiny, dim: 16, num_heads: 2, context_length: 16}", "tokenizer={kind: wordpiece, vocab_size: 120}"),
        *("objective={kind: masked_lm}", "evaluation.every=null"),
    ],
    "gpt": ["model.context_length=200"],
    "t5": [
        "model={preset: t5-small, encoder_layers: 1, decoder_layers: 1, dim: 16, num_heads: 2, head_dim: 8, hidden_dim: 32}",
        "model.context_length=24",
        *("tokenizer={kind: unigram, vocab_size: 200}", "objective={kind: span_corruption}"),
    ],
}


def text(random: np.random.Generator) -> str:
    return " ".join(random.choice(WORDS[:15], int(random.integers(2, 9))))


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Rows whose columns are made by functions of their number and of a text."""
    random = np.random.default_rng(5)
    texts = [text(random) for _ in range(60)]
    return [{name: make(number, words) for name, make in columns.items()} for number, words in enumerate(texts)]


def a_text(number: int, words: str) -> str:
    return words


DATA = {
    "classes": rows(text=a_text, label=lambda n, t: ["good", "bad", "so-so"][n % 3]),
    "stars": rows(text=a_text, label=lambda n, t: n % 4 + 1),
    "pairs": rows(premise=a_text, hypothesis=lambda n, t: t[: n + 2], label=lambda n, t: "yes" if n % 2 else "no"),
    "likeness": rows(sentence1=a_text, sentence2=lambda n, t: t[::-1], score=lambda n, t: n % 5 + 0.25 * (n % 3)),
    "ages": rows(text=a_text, label=lambda n, t: n),
    "names": rows(tokens=lambda n, t: t.split(), ner_tags=lambda n, t: ["B-cat" if word == "cat" else "O" for word in t.split()]),
    "parts": rows(tokens=lambda n, t: t.split(), upos=lambda n, t: ["DET" if len(word) < 4 else "NOUN" for word in t.split()]),
    "asked": rows(
        question=a_text,
        context=lambda n, t: f"the {t} mat",
        answers=lambda n, t: {"text": [t[:3]] * (n % 5 > 0), "answer_start": [4] * (n % 5 > 0)},
    ),
    "choices": rows(question=a_text, choices=lambda n, t: [t, "the cat"], label=lambda n, t: n % 2),
    "arc": rows(
        id=lambda n, t: str(n),
        question=lambda n, t: {"stem": t, "choices": [{"text": f"{t} {one}", "label": one} for one in "ABCD"[: 2 + n % 3]]},
        answerKey=lambda n, t: "AB"[n % 2],
    ),
    "blanks": rows(
        sentence=lambda n, t: f"_ {t}",
        option1=a_text,
        option2=lambda n, t: t[::-1],
        answer=lambda n, t: "12"[n % 2],
        qID=lambda n, t: str(n),
    ),
    "science": rows(
        question=a_text,
        distractor1=lambda n, t: f"{n} cats",
        distractor2=lambda n, t: f"{n} dogs",
        correct_answer=lambda n, t: f"mat {n}",
        support=lambda n, t: f"{n} " + t[::-1] * 9,
    ),
    "votes": rows(prompt=a_text, response_a=lambda n, t: f"cat {t}", response_b=lambda n, t: t[::-1], winner=lambda n, t: ["a", "b", "a"]),
    "zeros": rows(prompt=a_text, response_a=lambda n, t: f"cat {t}", response_b=lambda n, t: f"{t} {t}", winner=lambda n, t: n % 2),
    "annotators": rows(
        prompt=a_text, response_a=lambda n, t: f"cat {t}", response_b=lambda n, t: f"{t} {t}", winner=lambda n, t: [n % 2, 0, n % 3 % 2]
    ),
    "ballots": rows(
        prompt=a_text,
        response_a=lambda n, t: f"cat {t}",
        response_b=lambda n, t: t[::-1],
        winner_model_a=lambda n, t: int(n % 3 == 0),
        winner_model_b=lambda n, t: int(n % 3 == 1),
        winner_tie=lambda n, t: int(n % 3 == 2),
    ),
    "talks": rows(messages=lambda n, t: [{"role": "user", "content": t}, {"role": "assistant", "content": t}]),
    "orders": rows(instruction=a_text, output=lambda n, t: t[::-1]),
    "preferences": rows(prompt=a_text, chosen=lambda n, t: f"cat {t}", rejected=lambda n, t: t[::-1]),
    "thumbs": rows(prompt=lambda n, t: f"say {n // 4}", completion=a_text, label=lambda n, t: n % 2 == 0),
    "turns": rows(
        prompt=lambda n, t: [{"role": "user", "content": f"say {n // 4}"}],
        completion=lambda n, t: [{"role": "assistant", "content": t}],
        label=lambda n, t: n % 2 == 0,
    ),
    "translations": rows(en=a_text, fr=lambda n, t: t.upper()),
    "tongues": rows(en=a_text, fr=lambda n, t: f"{n} {t}", cs=lambda n, t: f"{t} {n}"),
    "plain": rows(text=a_text),
    "spans": rows(Text=a_text, Entities=lambda n, t: [[0, 3, "THING"]]),
    "sorted": rows(text=a_text, mood=lambda n, t: n % 2),
    "both": rows(question=a_text, answer=a_text, category=lambda n, t: ["one", "two"][n % 2]),
    "passages": rows(question=a_text, passage=lambda n, t: f"{n} " + t[::-1] * 9, label=lambda n, t: ["yes", "no"][n % 2]),
    "articles": rows(
        question=a_text, article=lambda n, t: f"{n} " + t[::-1] * 9, options=lambda n, t: [t, "the cat"], answer=lambda n, t: n % 2
    ),
    "lectures": rows(instruction=a_text, lecture=lambda n, t: f"{n} " + t[::-1] * 9, output=a_text),
    "magpie": rows(
        instruction=a_text,
        response=lambda n, t: t[::-1],
        prompt=a_text,
        conversations=lambda n, t: [{"from": "human", "value": t}, {"from": "gpt", "value": t}],
        knowledge=lambda n, t: f"{n} " + t[::-1] * 9,
    ),
    "questions": rows(question=a_text, sentence=a_text, label=lambda n, t: ["yes", "no"][n % 2]),
    "moods": rows(text=a_text, labels=lambda n, t: "calm|loud" if n % 3 else "calm"),
    "genres": rows(text=a_text, genres=lambda n, t: [name for name in ("calm", "loud", "odd") if n % len(name) == 0]),
    "topics": rows(text=a_text, label=lambda n, t: "; ".join(name for name in ("calm", "loud", "odd") if n % len(name) == 0)),
    "flags": rows(
        remark=lambda n, t: f"{n} " + t * 9, toxic=lambda n, t: n % 2, insult=lambda n, t: int(n % 3 == 0), threat=lambda n, t: 0
    ),
    "comments": rows(  # as in Jigsaw's data set, of which one label has the name of a class
        id=lambda n, t: n, comment_text=a_text, toxic=lambda n, t: n % 2, obscene=lambda n, t: int(n % 3 == 0)
    ),
    "spaced": rows(**{"the remark": a_text, "kind ": lambda n, t: ["one", "two"][n % 2]}),
    "odd": rows(cs=a_text, pl=lambda n, t: f"{t} {n}", kind=lambda n, t: ["one", "two"][n % 2]),
    "words": rows(word=lambda n, t: t.split()[0], tag=lambda n, t: "O"),
    "strange": rows(colour=a_text, size=lambda n, t: n),
}
RECOGNISED = [
    ("bert", "classes", {"kind": "classification", "regression": False}, "accuracy", "one of 3 classes"),
    ("bert", "stars", {"kind": "classification", "regression": False}, "accuracy", "one of 4 classes"),
    ("bert", "likeness", {"kind": "classification", "regression": True}, "rmse", "a number with fractions"),
    ("gpt", "pairs", {"kind": "classification", "regression": False}, "accuracy", "GPT (Radford"),
    ("t5", "classes", {"kind": "classification", "regression": False}, "accuracy", "Adafactor, linear, 8 epochs"),
    ("bert", "moods", {"kind": "multi_label", "delimiter": "|"}, "f1_micro", "any number of labels: of 2 in these rows, separated by '|'."),
    ("bert", "genres", {"kind": "multi_label", "delimiter": "|"}, "f1_micro", "any number of labels: of 3 in these rows."),
    ("gpt", "topics", {"kind": "multi_label", "delimiter": ";"}, "f1_micro", "of 3 in these rows, separated by ';'."),
    ("bert", "flags", {"kind": "multi_label"}, "f1_micro", "of 3 in these rows, each a column of 0 and 1"),
    ("bert", "comments", {"kind": "multi_label"}, "f1_micro", "of 2 in these rows, each a column of 0 and 1"),
    ("bert", "asked", {"kind": "question_answering", "unanswerable": True}, "f1", "the answers in them; some questions have none."),
    ("bert", "names", {"kind": "tagging"}, "f1", "parts of names"),
    ("bert", "parts", {"kind": "tagging"}, "f1_macro", "tokens and their tags."),
    ("gpt", "choices", {"kind": "multiple_choice"}, "accuracy", "several answers"),
    ("gpt", "arc", {"kind": "multiple_choice"}, "accuracy", "several answers"),
    ("gpt", "blanks", {"kind": "multiple_choice"}, "accuracy", "several answers"),
    ("gpt", "votes", {"kind": "dpo"}, "accuracy", "two completions of which one is better"),
    ("gpt", "ballots", {"kind": "dpo"}, "accuracy", "two completions of which one is better"),
    ("gpt", "talks", {"kind": "chat", "format": "chatml"}, None, "conversations; the tokenizer has no chat template"),
    ("gpt", "magpie", {"kind": "chat", "format": "chatml"}, None, "conversations; the tokenizer has no chat template"),
    ("gpt", "orders", {"kind": "chat", "format": "chatml"}, None, "instructions and their answers"),
    ("gpt", "preferences", {"kind": "dpo"}, "accuracy", "two completions of which one is better"),
    ("t5", "translations", {"kind": "text_to_text"}, None, "the text that answers it"),
    ("gpt", "plain", {"kind": "causal_lm"}, None, "text alone"),
    ("bert", "plain", {"kind": "masked_lm"}, None, "text alone"),
    ("t5", "plain", {"kind": "span_corruption"}, None, "text alone"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("scored", ["classes", "preferences"])
def test_a_model_that_scores_texts_learns_preferences_as_a_reward_model(place: Path, scored: str) -> None:
    kind = ["objective={kind: reward}"] if scored == "preferences" else []
    learn(place, "gpt", scored, "--run", "scorer", "training={steps: 1, batch_size: 8}", *kind).exits(0)
    shown = finetune("--from", "scorer", "--data", str(place / "preferences.jsonl"), "--dry-run", "carbon.enabled=false")
    assert "\nobjective: {kind: reward}\n" in shown.out, shown.err
    assert shown.out.startswith("# reward: a prompt, and two completions of which one is better.\n")
    assert f"# reads  {READ['preferences']}\n" in shown.out


READ = {
    "classes": "text from 'text', label from 'label'",
    "pairs": "text from 'premise', pair from 'hypothesis', label from 'label'",
    "arc": "context from 'question.stem', choices from 'question.choices', label from 'answerKey'",
    "blanks": "context from 'sentence', choices from 'option1, option2', label from 'option{answer}'",
    "votes": "prompt from 'prompt', response_a from 'response_a', response_b from 'response_b', winner from 'winner'",
    "ballots": "prompt from 'prompt', response_a from 'response_a', response_b from 'response_b', "
    "winner from 'winner_model_a, winner_model_b, winner_tie'",
    "asked": "question from 'question', context from 'context', answers from 'answers'",
    "comments": "text from 'comment_text', labels from 'toxic, obscene'",
    "flags": "text from 'remark', labels from 'toxic, insult, threat'",
    "magpie": "messages from 'conversations'",
    "orders": "instruction from 'instruction', output from 'output'",
    "plain": "text from 'text'",
    "preferences": "prompt from 'prompt', chosen from 'chosen', rejected from 'rejected'",
}


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """A tiny BERT, a tiny GPT-2 and a tiny T5 of ours, and rows for every task."""
    for name, words in STARTS.items():
        pretrain(base / name, base / "tiny.yaml", *words, "training.steps=2").exits(0)
    for name, found in DATA.items():
        write_rows(base / f"{name}.jsonl", found)
    return base


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finetune(*words: str) -> Done:
    return run_tfkit(Path.cwd(), ["finetune", "--threads", "1", *words])


def learn(place: Path, start: str, data: str, *words: str) -> Done:
    """Without a recipe: a third of the rows held out, for there are few."""
    given = ["--from", str(place / start), "--data", str(place / f"{data}.jsonl"), "training.batch_size=8"]
    return finetune(*given, "carbon.enabled=false", "training.precision=fp32", "data.validation=0.3", *words)


def printed(done: Done) -> str:
    """The recipe on stderr: from its comment to the empty line."""
    return done.err[done.err.index("# ") :].partition("\n\n")[0] + "\n"


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("start", "data", "objective", "metric", "said"), RECOGNISED)
def test_a_task_is_recognised_and_its_recipe_runs_again(
    place: Path, start: str, data: str, objective: dict[str, Any], metric: str | None, said: str
) -> None:
    done = learn(place, start, data, "training.epochs=2").exits(0)
    recipe = printed(done)
    assert recipe.startswith(f"# {objective['kind']}: ")
    assert said in recipe
    assert ("# reads  " + READ[data] + "\n" in recipe) if data in READ else "# reads  " in recipe
    Path("printed.yaml").write_text(recipe, encoding="utf-8")
    run = Path("runs") / f"{start}-{data}"  # the default
    printed_recipe, resolved = (read_recipe(str(path)).recipe for path in ("printed.yaml", run / "recipe.yaml"))
    assert printed_recipe.objective == resolved.objective.model_copy(
        update={"labels": None} if hasattr(printed_recipe.objective, "labels") else {}
    )
    assert objective.items() <= printed_recipe.objective.model_dump().items()
    assert printed_recipe.evaluation.metric == metric
    [*_, last] = kept(run)
    if objective["kind"] in ("question_answering", "tagging", "text_to_text"):  # a checkpoint without its run says it, too
        alone = infer_objective(describe(run / "checkpoints" / last))
        assert alone == {"kind": objective["kind"]} | printed_recipe.objective.model_dump(include={*printed_recipe.objective.needed_alone})
    assert f"# rules  decisions: {DECISIONS}\n" in recipe
    tried = receipt(run).get("rate_trial", {"lr": printed_recipe.optimizer.lr})
    assert (resolved.optimizer.lr, resolved.training.trial_rates) == (tried["lr"], None)
    assert ("learning rates tried" if "losses" in tried else "no learning rates are tried") in done.err
    finetune("printed.yaml", "--run", "again").exits(0)
    rules = [receipt(folder).get("decisions") for folder in (run, Path("again"))]
    assert rules == [DECISIONS, None]  # where they decided
    assert hashes(Path("again"), int(last[5:])) == hashes(run, int(last[5:]))
    scores = [record["evaluation"] for record in records(run) if "evaluation" in record]
    assert (
        printed_recipe.objective.reads_text or len(scores) == printed_recipe.training.epochs
    )  # one after each; texts are a row or two together
    of_names = {"precision", "recall", "f1"} if data == "parts" else set()  # where tags mark none
    assert {*metrics_of(printed_recipe.objective)} - of_names <= scores[-1].keys()
    best = receipt(run)["result"]["best"]
    assert best["metric"] == metric or (metric is None and best["metric"] == "loss")
    values = [score[best["metric"]] for score in scores]
    assert best["value"] == (min(values) if best["metric"] in ("loss", "rmse") else max(values))
    assert load(run).folder.samefile(best["checkpoint"])


@pytest.mark.thorough
def test_rates_are_tried_and_the_printed_recipe_tries_the_same(place: Path) -> None:
    words = ["training.epochs=6"]
    dry = learn(place, "bert", "classes", *words, "--dry-run")
    assert "before the first step, learning rates are tried: " in dry.err
    done = learn(place, "bert", "classes", *words)
    assert (done.code, done.err.count("learning rates tried in 4 steps each")) == (0, 1), done.err
    Path("printed.yaml").write_text(dry.out, encoding="utf-8")
    finetune("printed.yaml", "--run", "again").exits(0)
    trials = [receipt(run)["rate_trial"] for run in (Path("runs/bert-classes"), Path("again"))]
    assert trials[0] == trials[1]
    [*_, last] = kept(Path("again"))
    assert hashes(Path("again"), int(last[5:])) == hashes(Path("runs/bert-classes"), int(last[5:]))
    given = learn(place, "bert", "classes", *words, "optimizer.lr=1e-3", "--dry-run")
    assert "trial_rates" not in given.out
    assert "rates are tried" not in given.err


def test_a_model_with_a_chat_template_gets_the_rate_of_a_tuned_one(place: Path) -> None:
    """60 conversations make batches of 8; an adapter takes a higher rate."""
    few = ["training.steps=1", "carbon.enabled=false", "data.validation=null", "training.precision=fp32"]
    data = ["--data", str(place / "talks.jsonl"), *few]
    done = finetune("--from", str(place / "gpt"), *data, "--run", "first")
    assert (done.code, "lr: 0.00025" in printed(done)) == (0, True), done.err  # a base model, by the square root of the batch
    for words, rate in (([], 5e-5), (["training.adapter={rank: 2}"], 1e-3)):
        run = f"second-{rate}"
        finetune("--from", "first", *data, *words, "--run", run).exits(0, "# size   about 60 rows to train on")
        recipe = read_recipe(f"{run}/recipe.yaml").recipe
        assert (recipe.optimizer.lr, recipe.training.batch_size) == (rate, 8)


@pytest.mark.thorough
def test_a_training_that_does_not_fit_the_memory_is_one_of_an_adapter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = trained_bytes(sum(part.numel() for part in load(place / "gpt").model.parameters()))
    words = ["--from", str(place / "gpt"), "--data", str(place / "plain.jsonl"), "training.steps=1", "training.batch_size=2"]
    for free, more, adapted, saved in (
        (needed, [], False, "model"),
        (needed - 1, [], True, "adapter_model"),
        (needed - 1, ["training.adapter=null"], False, "model"),
    ):
        monkeypatch.setattr(decided_size, "available_bytes", lambda free=free: free)
        run = f"free-{free}-{len(more)}"
        done = finetune(*words, *more, "--run", run)
        assert (done.code, "are free, so LoRA's" in done.err) == (0, adapted), done.err
        assert (read_recipe(f"{run}/recipe.yaml").recipe.training.adapter is not None) == adapted
        assert "rows of 128 tokens, as the texts, the memory and the time of a step allow; the model keeps its context of 200" in done.err
        assert (read_recipe(f"{run}/recipe.yaml").recipe.data.sequence_length, load_any(run).config.context_length) == (128, 200)
        assert {path.stem for path in Path(run).glob("checkpoints/*/*.safetensors")} == {saved}


def test_the_sources_of_what_is_read_are_not_called_unread(place: Path, work: Path) -> None:
    words = "".join(f"Sentence: {n},a,w{n},T{m}\n" if not m else f",a,w{n},T{m}\n" for n in range(30) for m in range(3))
    (work / "words.csv").write_text(f"Sentence #,note,Word,Tag\n{words}")
    intents = [{"tag": f"tag {n}", "patterns": [f"say {n} {m}" for m in range(20)], "responses": ["Yes."]} for n in range(3)]
    (work / "intents.json").write_text(json.dumps({"intents": intents}))
    for name, unread in (("intents.json", "'responses'"), ("words.csv", "'Sentence #', 'note'")):
        assert f"# unread {unread}\n" in finetune("--from", str(place / "bert"), "--data", name, "--dry-run").exits(0).out


def test_the_names_of_columns_may_be_of_several_lines(place: Path, work: Path) -> None:
    """As in the tables of forms, whose columns are questions; YAML's lines end at other characters, too."""
    rows = "".join(f"the cat {n} sat on the mat,{n % 2},x{n % 3}\n" for n in range(60))
    (work / "form.csv").write_text(f'text,label,"Notes\n(\u2028\x85\x07)"\n{rows}', encoding="utf-8", newline="")
    done = finetune("--from", str(place / "bert"), "--data", "form.csv", "--dry-run").exits(0)
    assert "# unread 'Notes\\n(\\u2028\\x85\\x07)'\n" in done.out
    (work / "task.yaml").write_text(done.out, encoding="utf-8")
    assert read_recipe("task.yaml").recipe.objective.kind == "classification"


def test_labels_that_are_named_are_meant(place: Path) -> None:
    done = learn(place, "gpt", "genres", "data.train.0.columns={text: text, labels: genres}", "training.steps=1")
    assert (done.code, "# multi_label: a text, and any number of labels" in done.err) == (0, True), done.err


def test_what_the_command_line_says_is_kept(place: Path) -> None:
    words = ["training.steps=3", "optimizer={kind: adafactor, lr: 1e-2}", "schedule.warmup_steps=1", "data.validation=null"]
    learn(place, "gpt", "both", *words, "data.train.0.columns={text: question, label: category}", "objective.regression=false").exits(0)
    recipe = read_recipe("runs/gpt-both/recipe.yaml").recipe
    assert (recipe.training.steps, recipe.training.epochs, recipe.optimizer.kind) == (3, None, "adafactor")
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_ratio) == (1, None)
    assert (recipe.data.validation, recipe.evaluation.metric, recipe.evaluation.every) == (None, None, None)
    done = learn(place, "bert", "sorted", "objective.kind=masked_lm", "training.steps=1").exits(0)
    assert printed(done).startswith("# masked_lm: named on the command line.")


REFUSED = {  # by the checkpoint, the data and further words: parts of the message, in any order
    "gpt both": """this may be chat or classification ... question, answer, category ...
        output=answer" for answers in a conversation ('category' is not read) ... pair=answer,label=category\"""",
    "bert orders": """these are the columns of chat ... an encoder (bert, ... --from a decoder ... "text=NAME,label=NAME" ...
        "text={instruction} {output}\"""",
    "gpt translations": """columns of text_to_text ... --from a model of an encoder and ... "text={en} {fr}" ...
        "instruction=Translate from en to fr: {en},output=fr\"""",
    "gpt zeros": """response_b=response_b,winner=winner" data.train.0.class_names=[a,b] for the better of two responses, ...
        if 0 is a vote for 'response_a', else [b,a]\n""",
    "gpt thumbs": """'label' may say whether a completion is good or bad ... objective.kind=dpo to prefer the good ...
        objective.kind=chat to learn all of them alike""",
    "gpt turns": "'label' may say whether a completion is good or bad ... objective.kind=dpo to prefer the good",
    "gpt science": """'support' holds text ... "context=question,choices=[correct_answer,distractor1,distractor2],label=correct_answer" ...
        to read that alone ...
        "context={support} {question},choices=""",
    "t5 tongues objective.kind=text_to_text": """the texts are in 3 languages ...
        "source=cs,target=fr" to write one text for another ('en' is not read)""",
    "gpt genres": "'genres' may be the labels of the text ... objective.kind=multi_label\n  objective.kind=causal_lm, if it is not",
    "gpt comments": """no task has these columns ... objective.kind=multi_label for any number of labels of a text ...
        "text=comment_text,label=toxic" for the classes of texts ('obscene' is not read)""",
    "gpt asked": """columns of question_answering ... --from an encoder ... "instruction=question,output=context" ...
        "text={question} {context}\"""",
    "t5 parts": "columns of tagging ... tokens, upos ... --from an encoder or a decoder",
    "bert choices": "columns of multiple_choice ... --from a decoder",
    "bert sorted": """'mood' may be the label ... --columns "label=mood" ... objective.kind=masked_lm""",
    "bert spans": "the column 'Entities' may be labels, in a form that is not read ... objective.kind=masked_lm, to leave it out",
    "bert strange": """no task has these columns. Columns found: colour, size ... a head for masked tokens ...
        "text=colour" for masked_lm ... or numbers for""",
    "bert words": "each row has a word and its tag, and no column, such as 'sentence', says which rows",
    "bert questions": """'question' and 'sentence' may each be the text ... "text=question,pair=sentence" for the ...
        "text=question" for""",
    "bert passages": """'passage' holds text, and would not be read beside 'question' ...
        "text=question" to read that alone\n  --columns "text=question,pair=passage" to read both""",
    "gpt articles": """'article' holds text ... "context={article} {question}" to read both""",
    "gpt lectures": """'lecture' holds text ... "instruction=instruction,input=lecture" to read both""",
    "bert ages": "60 different ones in 60 rows ... regression: true",
    "bert classes evaluation.metric=bleu": "evaluation.metric: evaluations of classification during training do not compute",
    "bert parts evaluation.metric=f1": "evaluation.metric: f1 is for names, and the tags DET, NOUN mark none",
    "bert classes training.stepss=3": "training.stepss: unknown, did you mean steps",
    "bert odd --columns text=cs,label=kinds": "no column 'kinds' ... kind; did you mean --columns \"label=kind\"",
    "bert nowhere": "nowhere.jsonl: no such file or folder",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_task_that_cannot_be_recognised_is_refused(place: Path, given: str) -> None:
    said = re.split(r"\s+\.\.\.\s+", REFUSED[given])
    learn(place, *given.split()).refuses(3 if "nowhere" in given or "kinds" in given else 2, *said)
    assert not [*Path("runs").glob("*/checkpoints/step-*")]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("start", "data"),
    [
        ("gpt", "both"),
        ("gpt", "translations"),
        ("bert", "passages"),
        ("gpt", "odd"),
        ("t5", "odd"),
        ("bert", "odd"),
        ("gpt", "zeros"),
        ("gpt", "annotators"),
        ("bert", "spaced"),
        ("gpt", "science"),
        ("t5", "tongues"),
    ],
)
def test_every_line_that_is_offered_can_be_copied(place: Path, start: str, data: str) -> None:
    done = learn(place, start, data, "--dry-run").exits(2)
    offered = [line.strip() for line in done.err.splitlines() if line.strip().startswith("--columns")]
    for line in offered:
        words = shlex.split(line)
        words = words[: 3 if len(words) > 2 and "=" in words[2] else 2]
        assert "NAME" not in line
        done = learn(place, start, data, *words, "--dry-run")
        assert done.code == 0, (line, done.err)
    assert len(offered) >= 2


def test_parallel_files_are_a_task(place: Path, work: Path) -> None:
    """A translation from the language of the file that is named; without one, both directions are offered. Classes have their names."""
    texts = [row["a"] for row in rows(a=a_text)]
    written = {"train/train.cs": texts, "train/train.pl": texts, "t/t_text.txt": texts, "t/t_labels.txt": ["0", "1"] * 30}
    for name, found in ({**written, "t/mapping.txt": ["0\tcalm", "1\tloud"]}).items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("\n".join(found) + "\n", encoding="utf-8")
    shown = finetune("--from", str(place / "t5"), "--data", "train/train.pl", "--dry-run", "carbon.enabled=false")
    assert shown.out.startswith("# text_to_text: a translation from pl to cs.\n"), shown.err
    assert "columns: {source: pl, target: cs}" in shown.out
    asked = finetune("--from", str(place / "t5"), "--data", "train", "--dry-run")
    assert '--columns "source=cs,target=pl" to' in asked.err
    assert '--columns "source=pl,target=cs" to' in asked.err
    finetune("--from", str(place / "bert"), "--data", "t", "--run", "named", "training.steps=1", "carbon.enabled=false").exits(0)
    config = read_json(load("named").folder / "config.json")
    assert config["id2label"] == {"0": "calm", "1": "loud"}


def test_a_translation_in_an_object_is_recognised(place: Path, work: Path) -> None:
    """As on the Hub. A model of conversations learns it from an instruction; the direction is that of the file's name."""
    found = rows(id=lambda n, t: str(n), translation=lambda n, t: {"en": t, "hau": t.upper()})
    write_rows(work / "en-hau.json", found)
    columns = {
        "gpt": "columns: {instruction: 'Translate from en to hau: {translation.en}', output: translation.hau}",
        "t5": "columns: {source: translation.en, target: translation.hau}",
    }
    for start, named in columns.items():
        shown = finetune("--from", str(place / start), "--data", "en-hau.json", "--dry-run", "carbon.enabled=false")
        assert shown.out.startswith(f"# {'chat' if start == 'gpt' else 'text_to_text'}: a translation from en to hau"), shown.err
        assert named in shown.out


def test_folders_of_texts_are_classes_for_an_encoder_and_text_for_a_decoder(place: Path, work: Path) -> None:
    for number, row in enumerate(rows(text=a_text)):
        path = work / "news" / ["art", "sport"][number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    for start, kind in {"bert": "classification", "gpt": "causal_lm"}.items():
        shown = finetune("--from", str(place / start), "--data", "news", "--dry-run", "carbon.enabled=false")
        assert shown.out.startswith(f"# {kind}: "), shown.err


LONG = "a text of many words that is long enough to be one of its own, number {}"
TASKS = {  # the kind, the columns by the number of the row, what is read, and what is not and would be missed
    "alpaca": (
        "chat",
        {
            "instruction": "say it in other words, number {}",
            "output": "said {}",
            "text": "Below. " * 9 + "say it in other words, number {}",
        },
        {"instruction": "instruction", "output": "output"},
        (),
    ),
    "hellaswag": (
        "multiple_choice",
        {"ctx_a": LONG, "ctx": LONG + ", and then", "endings": ["a {}", "b {}"], "label": 1},
        {"context": "ctx", "choices": "endings", "label": "label"},
        (),
    ),
    "squad": (  # the answer is in the passage
        "chat",
        {"question": "which number has it among all?", "passage": LONG, "answer": "number {}"},
        {"instruction": "question", "output": "answer"},
        ("passage",),
    ),
    "short": ("classification", {"text": "number {}", "passage": LONG, "label": "yes"}, {"text": "text", "label": "label"}, ("passage",)),
    "hotpot": (
        "chat",
        {"question": LONG, "answer": "it is {}", "context": {"title": ["a"], "sentences": [[LONG]]}},
        {"instruction": "question", "output": "answer"},
        (),
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_what_would_be_missed_is_no_text_that_says_again_what_is_read(name: str, work: Path) -> None:
    kind, columns, reads, unread = TASKS[name]
    lines = [json.dumps(columns).replace("{}", str(number)) for number in range(40)]
    (work / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    seen = _inspect_data(SourceSection(path="rows.jsonl"), "error")
    assert kind in seen.reads
    assert (dict(seen.reads[kind]), seen.unread[kind]) == (reads, unread)


@pytest.mark.parametrize(("again", "unread"), [(14, ()), (13, ("original_question",))])
def test_a_question_that_is_asked_anew_in_other_rows_is_not_missed(work: Path, again: int, unread: tuple[str, ...]) -> None:
    """As in MetaMathQA, where it is the question itself in two rows of five."""
    found = [{"query": LONG.format(n), "response": "so", "original_question": LONG.format(n if n < again else n + 100)} for n in range(40)]
    write_rows(work / "rows.jsonl", found)
    assert _inspect_data(SourceSection(path="rows.jsonl"), "error").unread["chat"] == unread


def test_questions_without_any_answer_are_no_question_answering(work: Path) -> None:
    """As in AGIEval's files, whose choices have a column `answer` of nulls."""
    row = {"passage": LONG, "question": "Is it {}?", "options": ["yes", "no"], "label": "A", "answer": None}
    (work / "rows.jsonl").write_text("\n".join(json.dumps(row).replace("{}", str(number)) for number in range(40)), encoding="utf-8")
    seen = _inspect_data(SourceSection(path="rows.jsonl"), "error")
    assert ("question_answering" in seen.reads, "multiple_choice" in seen.reads) == (False, True)


def test_a_head_for_classes_asks_for_labels(place: Path) -> None:
    learn(place, "bert", "classes", "--run", "first", "training.steps=1").exits(0)
    given = ["--from", str(load("first").folder), "--data", str(place / "plain.jsonl")]
    finetune(*given).exits(2, "the model's head predicts classes")
    finetune(*given, "carbon.enabled=false", "objective.kind=masked_lm", "training.steps=1", "data.validation=null").exits(0)
    assert load("runs/first-plain").config.head.kind == "masked_lm"


@pytest.mark.parametrize(
    ("start", "section", "name"),
    [
        ("hub:HuggingFaceTB/SmolLM2-1.7B@main", {"path": "some/train.csv.gz"}, "SmolLM2-1.7B train"),
        ("models/bert/", {"hub": "org/some.data"}, "bert some.data"),
        ("bert", {"stdlib": "packages"}, "bert packages"),
        ("bert", {"path": "*.jsonl"}, "bert *"),
    ],
)
def test_the_name_of_a_run(start: str, section: dict[str, Any], name: str) -> None:
    assert f"{_model_name(start)} {_data_name(SourceSection.model_validate(section))}" == name


@pytest.mark.thorough
def test_the_folder_comes_first_and_a_run_goes_on_by_its_own_recipe(place: Path, work: Path) -> None:
    """A place that cannot be written is an error before anything is read; a finished run repeats its result without its data."""
    (work / "file").write_text("not a folder", encoding="utf-8")
    learn(place, "nowhere", "nothing", "--run", "file").exits(5, "file: cannot be a run folder")
    Path("classes.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    words = ["--from", str(place / "bert"), "--data", "classes.jsonl", "carbon.enabled=false", "training.steps=2", "--run", "run"]
    finetune(*words).exits(0)
    done = finetune(*[word for word in words if "steps" not in word], "training.epochs=3", "--resume")
    assert (done.code, "training.steps: 2 in the run, not set now" in done.err) == (0, True), done.err
    finetune(*words, "training.steps=40", "--resume", "--json").exits(0)
    words[words.index("training.steps=2")] = "training.steps=40"
    Path("classes.jsonl").unlink()
    done = finetune(*words, "--resume")
    assert (done.code, "this run is finished" in done.err, "# classification" in done.err) == (0, True, False), done.err
    finetune(*words, "training.batch_size=3", "--resume").exits(2, "training.batch_size: ")


@pytest.mark.parametrize("run", [[], ["--run", "run"]])  # without it, the run is named after them
def test_without_data_or_checkpoint(run: list[str], place: Path, work: Path) -> None:
    finetune("--from", str(place / "bert"), *run).exits(2, "Give a RECIPE, or --data F")
    finetune("--data", str(place / "classes.jsonl"), *run).exits(2, "which checkpoint? Give --from CKPT")


@pytest.mark.thorough
def test_a_stopped_run_goes_on_with_what_it_was_given(place: Path, work: Path) -> None:
    """By the run folder alone, and never with other data or another checkpoint."""
    Path("my rows.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    words = ["--from", str(place / "bert"), "--data", "my rows.jsonl", "carbon.enabled=false", "training.steps=6", "--threads", "1"]
    done = run_tfkit(work, ["finetune", *words, "--run", "whole"]).exits(0)
    done = run_tfkit(work, ["finetune", *words, "--run", "stopped"], strike(signal.SIGTERM, 2)).exits(143)
    assert done.err.splitlines()[-1] == "tfkit resume stopped --threads 1"
    done = run_tfkit(work, ["finetune", "--run", "stopped", "--resume", "--threads", "1"])
    assert (done.code, "changes" in done.err, "# classification" in done.err) == (0, False, False), done.err
    assert hashes(Path("stopped"), 6) == hashes(Path("whole"), 6)
    Path("others.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    run_tfkit(work, ["finetune", "--data", "others.jsonl", "--run", "whole", "--resume"]).exits(2, "data.train: ")


def test_a_run_by_a_recipe_goes_on_without_naming_its_columns_again(place: Path, work: Path) -> None:
    rows = read_rows(place / "classes.jsonl")
    write_rows(Path("rows.jsonl"), [{f"my {name}": value for name, value in row.items()} for row in rows])
    recipe = "model: {from: nowhere}\ndata: {train: [{path: x}]}\nobjective: {kind: classification}\ntraining: {steps: 4, batch_size: 4}\n"
    Path("task.yaml").write_text(f"# For a test.\n{recipe}", encoding="utf-8")
    start = ["finetune", "task.yaml", "--from", str(place / "bert"), "--data", "rows.jsonl", "--run", "run", "--threads", "1"]
    columns = f"data.train.0.columns={json.dumps({'text': 'my text', 'label': 'my label'})}"
    run_tfkit(work, [*start, columns, "carbon.enabled=false", "training.steps=6"], strike(signal.SIGTERM, 2)).exits(143)
    done = run_tfkit(work, [*start, "--resume", "--json"])
    assert (done.code, json.loads(done.out or "{}").get("steps")) == (0, 6), done.err
