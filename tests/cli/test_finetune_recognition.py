"""Fine-tuning without a recipe: the task is recognised by columns and checkpoint, and printed as a recipe that gives the same weights."""

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answer_runs import BERT_WORDS, T5_WORDS
from tiny_files import read_json, receipt, write_rows
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

STARTS = {"bert": BERT_WORDS, "gpt": ["model.context_length=200"], "t5": T5_WORDS}


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Rows whose columns are templates of their number, a text, the text reversed and a long one; values in turn; or functions."""
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(WORDS[:15], int(random.integers(2, 9)))) for _ in range(60)]

    def value(column: Any, n: int, t: str) -> Any:
        if isinstance(column, str):
            return column.format(n=n, t=t, reversed=t[::-1], long=f"{n} " + t[::-1] * 9)
        return column[n % len(column)] if isinstance(column, list) else column(n, t)

    return [{name: value(column, n, t) for name, column in columns.items()} for n, t in enumerate(texts)]


TWO_RESPONSES = {"prompt": "{t}", "response_a": "cat {t}", "response_b": "{reversed}"}
DATA = {
    "classes": rows(text="{t}", label=["good", "bad", "so-so"]),
    "stars": rows(text="{t}", label=[1, 2, 3, 4]),
    "pairs": rows(premise="{t}", hypothesis=lambda n, t: t[: n + 2], label=["no", "yes"]),
    "likeness": rows(sentence1="{t}", sentence2="{reversed}", score=lambda n, t: n % 5 + 0.25 * (n % 3)),
    "ages": rows(text="{t}", label=lambda n, t: n),
    "names": rows(tokens=lambda n, t: t.split(), ner_tags=lambda n, t: ["B-cat" if word == "cat" else "O" for word in t.split()]),
    "parts": rows(tokens=lambda n, t: t.split(), upos=lambda n, t: ["DET" if len(word) < 4 else "NOUN" for word in t.split()]),
    "asked": rows(
        question="{t}", context="the {t} mat", answers=lambda n, t: {"text": [t[:3]] * (n % 5 > 0), "answer_start": [4] * (n % 5 > 0)}
    ),
    "choices": rows(question="{t}", choices=lambda n, t: [t, "the cat"], label=[0, 1]),
    "arc": rows(
        id="{n}",
        question=lambda n, t: {"stem": t, "choices": [{"text": f"{t} {one}", "label": one} for one in "ABCD"[: 2 + n % 3]]},
        answerKey=["A", "B"],
    ),
    "blanks": rows(sentence="_ {t}", option1="{t}", option2="{reversed}", answer=["1", "2"], qID="{n}"),
    "science": rows(question="{t}", distractor1="{n} cats", distractor2="{n} dogs", correct_answer="mat {n}", support="{long}"),
    "votes": rows(**TWO_RESPONSES, winner=[["a", "b", "a"]]),
    "zeros": rows(prompt="{t}", response_a="cat {t}", response_b="{t} {t}", winner=[0, 1]),
    "annotators": rows(prompt="{t}", response_a="cat {t}", response_b="{t} {t}", winner=lambda n, t: [n % 2, 0, n % 3 % 2]),
    "ballots": rows(**TWO_RESPONSES, winner_model_a=[1, 0, 0], winner_model_b=[0, 1, 0], winner_tie=[0, 0, 1]),
    "talks": rows(messages=lambda n, t: [{"role": "user", "content": t}, {"role": "assistant", "content": t}]),
    "orders": rows(instruction="{t}", output="{reversed}"),
    "preferences": rows(prompt="{t}", chosen="cat {t}", rejected="{reversed}"),
    "thumbs": rows(prompt=lambda n, t: f"say {n // 4}", completion="{t}", label=[True, False]),
    "turns": rows(
        prompt=lambda n, t: [{"role": "user", "content": f"say {n // 4}"}],
        completion=lambda n, t: [{"role": "assistant", "content": t}],
        label=[True, False],
    ),
    "translations": rows(en="{t}", fr=lambda n, t: t.upper()),
    "tongues": rows(en="{t}", fr="{n} {t}", cs="{t} {n}"),
    "plain": rows(text="{t}"),
    "spans": rows(Text="{t}", Entities=[[[0, 3, "THING"]]]),
    "sorted": rows(text="{t}", mood=[0, 1]),
    "both": rows(question="{t}", answer="{t}", category=["one", "two"]),
    "passages": rows(question="{t}", passage="{long}", label=["yes", "no"]),
    "articles": rows(question="{t}", article="{long}", options=lambda n, t: [t, "the cat"], answer=[0, 1]),
    "lectures": rows(instruction="{t}", lecture="{long}", output="{t}"),
    "magpie": rows(
        instruction="{t}",
        response="{reversed}",
        prompt="{t}",
        conversations=lambda n, t: [{"from": "human", "value": t}, {"from": "gpt", "value": t}],
        knowledge="{long}",
    ),
    "questions": rows(question="{t}", sentence="{t}", label=["yes", "no"]),
    "moods": rows(text="{t}", labels=["calm", "calm|loud", "calm|loud"]),
    "genres": rows(text="{t}", genres=lambda n, t: [name for name in ("calm", "loud", "odd") if n % len(name) == 0]),
    "topics": rows(text="{t}", label=lambda n, t: "; ".join(name for name in ("calm", "loud", "odd") if n % len(name) == 0)),
    "flags": rows(remark=lambda n, t: f"{n} " + t * 9, toxic=[0, 1], insult=[1, 0, 0], threat=[0]),
    # As in Jigsaw's data set, of which one label has the name of a class.
    "comments": rows(id=lambda n, t: n, comment_text="{t}", toxic=[0, 1], obscene=[1, 0, 0]),
    "spaced": rows(**{"the remark": "{t}", "kind ": ["one", "two"]}),
    "odd": rows(cs="{t}", pl="{t} {n}", kind=["one", "two"]),
    "words": rows(word=lambda n, t: t.split()[0], tag="O"),
    "strange": rows(colour="{t}", size=lambda n, t: n),
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
    decided = shown(Path(), "scorer", str(place / "preferences.jsonl"))
    assert "\nobjective: {kind: reward}\n" in decided
    assert decided.startswith("# reward: a prompt, and two completions of which one is better.\n")
    assert f"# reads  {READ['preferences']}\n" in decided


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


def finetune(*words: str, before: Any = None) -> Done:
    return run_tfkit(Path.cwd(), ["finetune", "--threads", "1", *words], before)


def learn(place: Path, start: str, data: str, *words: str) -> Done:
    """Without a recipe: a third of the rows held out, for there are few."""
    given = ["--from", str(place / start), "--data", str(place / f"{data}.jsonl"), "training.batch_size=8"]
    return finetune(*given, "carbon.enabled=false", "training.precision=fp32", "data.validation=0.3", *words)


def shown(place: Path, start: str, data: str) -> str:
    """The recipe on stdout that a dry run decides, from this data in the current folder."""
    return finetune("--from", str(place / start), "--data", data, "--dry-run", "carbon.enabled=false").exits(0).out


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
    learned = {"labels": None} if hasattr(printed_recipe.objective, "labels") else {}
    assert printed_recipe.objective == resolved.objective.model_copy(update=learned)
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
    assert [receipt(folder).get("decisions") for folder in (run, "again")] == [DECISIONS, None]  # where they decided
    assert hashes(Path("again"), int(last[5:])) == hashes(run, int(last[5:]))
    scores = [record["evaluation"] for record in records(run) if "evaluation" in record]
    # One after each epoch; texts are a row or two together.
    assert printed_recipe.objective.reads_text or len(scores) == printed_recipe.training.epochs
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
    assert learn(place, "bert", "classes", *words).exits(0).err.count("learning rates tried in 4 steps each") == 1
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
    done = finetune("--from", str(place / "gpt"), *data, "--run", "first").exits(0)
    assert "lr: 0.00025" in printed(done)  # a base model, by the square root of the batch
    for words, rate in (([], 5e-5), (["training.adapter={rank: 2}"], 1e-3)):
        decided = finetune("--from", "first", *data, *words, "--dry-run").exits(0).out
        assert "# size   about 60 rows to train on" in decided
        Path("second.yaml").write_text(decided, encoding="utf-8")
        recipe = read_recipe("second.yaml").recipe
        assert (recipe.optimizer.lr, recipe.training.batch_size) == (rate, 8)


@pytest.mark.thorough
def test_a_training_that_does_not_fit_the_memory_is_one_of_an_adapter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = trained_bytes(sum(part.numel() for part in load(place / "gpt").model.parameters()))
    words = ["--from", str(place / "gpt"), "--data", str(place / "plain.jsonl"), "training.steps=1", "training.batch_size=2"]
    length = "rows of 128 tokens, as the texts, the memory and the time of a step allow; the model keeps its context of 200"
    for run, free, more, adapted, saved in (
        ("enough", needed, [], False, "model"),
        ("adapted", needed - 1, [], True, "adapter_model"),
        ("refused", needed - 1, ["training.adapter=null"], False, "model"),
    ):
        monkeypatch.setattr(decided_size, "available_bytes", lambda free=free: free)
        done = finetune(*words, *more, "--run", run).exits(0, length)
        recipe = read_recipe(f"{run}/recipe.yaml").recipe
        assert ("are free, so LoRA's" in done.err) == (recipe.training.adapter is not None) == adapted
        assert (recipe.data.sequence_length, load_any(run).config.context_length) == (128, 200)
        assert {path.stem for path in Path(run).glob("checkpoints/*/*.safetensors")} == {saved}


def test_the_sources_of_what_is_read_are_not_called_unread(place: Path, work: Path) -> None:
    words = "".join(f"Sentence: {n},a,w{n},T{m}\n" if not m else f",a,w{n},T{m}\n" for n in range(30) for m in range(3))
    (work / "words.csv").write_text(f"Sentence #,note,Word,Tag\n{words}")
    intents = [{"tag": f"tag {n}", "patterns": [f"say {n} {m}" for m in range(20)], "responses": ["Yes."]} for n in range(3)]
    (work / "intents.json").write_text(json.dumps({"intents": intents}))
    for name, unread in (("intents.json", "'responses'"), ("words.csv", "'Sentence #', 'note'")):
        assert f"# unread {unread}\n" in shown(place, "bert", name)


def test_the_names_of_columns_may_be_of_several_lines(place: Path, work: Path) -> None:
    """As in the tables of forms, whose columns are questions; YAML's lines end at other characters, too."""
    rows = "".join(f"the cat {n} sat on the mat,{n % 2},x{n % 3}\n" for n in range(60))
    (work / "form.csv").write_text(f'text,label,"Notes\n(\u2028\x85\x07)"\n{rows}', encoding="utf-8", newline="")
    decided = shown(place, "bert", "form.csv")
    assert "# unread 'Notes\\n(\\u2028\\x85\\x07)'\n" in decided
    (work / "task.yaml").write_text(decided, encoding="utf-8")
    assert read_recipe("task.yaml").recipe.objective.kind == "classification"


def test_what_the_command_line_says_is_kept(place: Path) -> None:
    words = ["training.steps=3", "optimizer={kind: adafactor, lr: 1e-2}", "schedule.warmup_steps=1", "data.validation=null"]
    learn(place, "gpt", "both", *words, "data.train.0.columns={text: question, label: category}", "objective.regression=false").exits(0)
    recipe = read_recipe("runs/gpt-both/recipe.yaml").recipe
    assert (recipe.training.steps, recipe.training.epochs, recipe.optimizer.kind) == (3, None, "adafactor")
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_ratio) == (1, None)
    assert (recipe.data.validation, recipe.evaluation.metric, recipe.evaluation.every) == (None, None, None)
    done = learn(place, "bert", "sorted", "objective.kind=masked_lm", "training.steps=1").exits(0)
    assert printed(done).startswith("# masked_lm: named on the command line.")
    labels = ["data.train.0.columns={text: text, labels: genres}", "training.steps=1"]
    learn(place, "gpt", "genres", *labels).exits(0, "# multi_label: a text, and any number of labels")


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
    "given",
    [
        *("gpt both", "gpt translations", "bert passages", "gpt odd", "t5 odd", "bert odd"),
        *("gpt zeros", "gpt annotators", "bert spaced", "gpt science", "t5 tongues"),
    ],
)
def test_every_line_that_is_offered_can_be_copied(place: Path, given: str) -> None:
    asked = learn(place, *given.split(), "--dry-run").exits(2)
    offered = [line.strip() for line in asked.err.splitlines() if line.strip().startswith("--columns")]
    for line in offered:
        words = shlex.split(line)
        words = words[: 3 if len(words) > 2 and "=" in words[2] else 2]
        assert "NAME" not in line
        learn(place, *given.split(), *words, "--dry-run").exits(0)
    assert len(offered) >= 2


def test_parallel_files_are_a_task(place: Path, work: Path) -> None:
    """A translation from the language of the file that is named; without one, both directions are offered. Classes have their names."""
    texts = [row["text"] for row in DATA["plain"]]
    written = {"train/train.cs": texts, "train/train.pl": texts, "t/t_text.txt": texts, "t/t_labels.txt": ["0", "1"] * 30}
    for name, found in ({**written, "t/mapping.txt": ["0\tcalm", "1\tloud"]}).items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("\n".join(found) + "\n", encoding="utf-8")
    decided = shown(place, "t5", "train/train.pl")
    assert decided.startswith("# text_to_text: a translation from pl to cs.\n")
    assert "columns: {source: pl, target: cs}" in decided
    asked = finetune("--from", str(place / "t5"), "--data", "train", "--dry-run")
    asked.exits(2, '--columns "source=cs,target=pl" to', '--columns "source=pl,target=cs" to')
    finetune("--from", str(place / "bert"), "--data", "t", "--run", "named", "training.steps=1", "carbon.enabled=false").exits(0)
    assert read_json(load("named").folder / "config.json")["id2label"] == {"0": "calm", "1": "loud"}


def test_a_translation_in_an_object_is_recognised(place: Path, work: Path) -> None:
    """As on the Hub. A model of conversations learns it from an instruction; the direction is that of the file's name."""
    write_rows(work / "en-hau.json", rows(id="{n}", translation=lambda n, t: {"en": t, "hau": t.upper()}))
    for start, kind, columns in (
        ("gpt", "chat", "columns: {instruction: 'Translate from en to hau: {translation.en}', output: translation.hau}"),
        ("t5", "text_to_text", "columns: {source: translation.en, target: translation.hau}"),
    ):
        decided = shown(place, start, "en-hau.json")
        assert decided.startswith(f"# {kind}: a translation from en to hau")
        assert columns in decided


def test_folders_of_texts_are_classes_for_an_encoder_and_text_for_a_decoder(place: Path, work: Path) -> None:
    for number, row in enumerate(DATA["plain"]):
        path = work / "news" / ["art", "sport"][number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    for start, kind in {"bert": "classification", "gpt": "causal_lm"}.items():
        assert shown(place, start, "news").startswith(f"# {kind}: ")


LONG = "a text of many words that is long enough to be one of its own, number {}"
TASKS = {  # the kind, the columns by the number of the row, what is read, and what is not and would be missed
    "alpaca": (
        "chat",
        {"instruction": "say it in other words {}", "output": "said {}", "text": "Below. " * 9 + "say it in other words {}"},
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


def inspected(columns: dict[str, Any]) -> Any:
    """Return the result for rows with these columns, into which a row's number is put."""
    write_rows(Path("rows.jsonl"), [json.loads(json.dumps(columns).replace("{}", str(number))) for number in range(40)])
    return _inspect_data(SourceSection(path="rows.jsonl"), "error")


@pytest.mark.parametrize("name", TASKS)
def test_what_would_be_missed_is_no_text_that_says_again_what_is_read(name: str) -> None:
    kind, columns, reads, unread = TASKS[name]
    seen = inspected(columns)
    assert (dict(seen.reads[kind]), seen.unread[kind]) == (reads, unread)


@pytest.mark.parametrize(("again", "unread"), [(14, ()), (13, ("original_question",))])
def test_a_question_that_is_asked_anew_in_other_rows_is_not_missed(work: Path, again: int, unread: tuple[str, ...]) -> None:
    """As in MetaMathQA, where it is the question itself in two rows of five."""
    found = [{"query": LONG.format(n), "response": "so", "original_question": LONG.format(n if n < again else n + 100)} for n in range(40)]
    write_rows(work / "rows.jsonl", found)
    assert _inspect_data(SourceSection(path="rows.jsonl"), "error").unread["chat"] == unread


@pytest.mark.parametrize("first", [{}, {"translation": None}])
def test_a_first_row_without_values_hides_no_columns(work: Path, first: dict[str, Any]) -> None:
    rows = [{"translation": {"en": f"the cat {n}", "de": f"die Katze {n}"}} for n in range(20)]
    write_rows(work / "de-en.jsonl", [first, *rows])
    reads = _inspect_data(SourceSection(path="de-en.jsonl"), "skip").reads["text_to_text"]
    assert reads == {"source": "translation.de", "target": "translation.en"}


def test_questions_without_any_answer_are_no_question_answering() -> None:
    """As in AGIEval's files, whose choices have a column `answer` of nulls."""
    seen = inspected({"passage": LONG, "question": "Is it {}?", "options": ["yes", "no"], "label": "A", "answer": None})
    assert seen.reads.keys() & {"question_answering", "multiple_choice"} == {"multiple_choice"}


def test_a_head_for_classes_asks_for_labels(place: Path) -> None:
    learn(place, "bert", "classes", "--run", "first", "training.steps=1").exits(0)
    given = ["--from", str(load("first").folder), "--data", str(place / "plain.jsonl")]
    finetune(*given).exits(2, "the model's head predicts classes")
    finetune(*given, "carbon.enabled=false", "objective.kind=masked_lm", "training.steps=1", "data.validation=null").exits(0)
    assert load("runs/first-plain").config.head.kind == "masked_lm"


def test_the_name_of_a_run() -> None:
    for start, section, name in (
        ("hub:HuggingFaceTB/SmolLM2-1.7B@main", {"path": "some/train.csv.gz"}, "SmolLM2-1.7B train"),
        ("models/bert/", {"hub": "org/some.data"}, "bert some.data"),
        ("bert", {"stdlib": "packages"}, "bert packages"),
        ("bert", {"path": "*.jsonl"}, "bert *"),
    ):
        assert f"{_model_name(start)} {_data_name(SourceSection.model_validate(section))}" == name


@pytest.mark.thorough
def test_the_folder_comes_first_and_a_run_goes_on_by_its_own_recipe(place: Path, work: Path) -> None:
    """A place that cannot be written is an error before anything is read; a finished run repeats its result without its data."""
    (work / "file").write_text("not a folder", encoding="utf-8")
    learn(place, "nowhere", "nothing", "--run", "file").exits(5, "file: cannot be a run folder")
    Path("classes.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    words = ["--from", str(place / "bert"), "--data", "classes.jsonl", "carbon.enabled=false", "training.steps=2", "--run", "run"]
    finetune(*words).exits(0)
    anew = [word for word in words if "steps" not in word]
    finetune(*anew, "training.epochs=3", "--resume").exits(0, "training.steps: 2 in the run, not set now")
    finetune(*words, "training.steps=40", "--resume", "--json").exits(0)
    words[words.index("training.steps=2")] = "training.steps=40"
    Path("classes.jsonl").unlink()
    assert "# classification" not in finetune(*words, "--resume").exits(0, "this run is finished").err
    finetune(*words, "training.batch_size=3", "--resume").exits(2, "training.batch_size: ")


def test_without_data_or_checkpoint(place: Path) -> None:
    for run in ([], ["--run", "run"]):  # without it, the run is named after them
        finetune("--from", str(place / "bert"), *run).exits(2, "Give a RECIPE, or --data F")
        finetune("--data", str(place / "classes.jsonl"), *run).exits(2, "which checkpoint? Give --from CKPT")


@pytest.mark.thorough
def test_a_stopped_run_goes_on_with_what_it_was_given(place: Path, work: Path) -> None:
    """By the run folder alone, and never with other data or another checkpoint."""
    Path("my rows.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    words = ["--from", str(place / "bert"), "--data", "my rows.jsonl", "carbon.enabled=false", "training.steps=6"]
    finetune(*words, "--run", "whole").exits(0)
    done = finetune(*words, "--run", "stopped", before=strike(signal.SIGTERM, 2)).exits(143)
    assert done.err.splitlines()[-1] == "tfkit resume stopped --threads 1"
    done = finetune("--run", "stopped", "--resume").exits(0)
    assert not re.search("changes|# classification", done.err), done.err
    assert hashes(Path("stopped"), 6) == hashes(Path("whole"), 6)
    Path("others.jsonl").write_bytes((place / "classes.jsonl").read_bytes())
    finetune("--data", "others.jsonl", "--run", "whole", "--resume").exits(2, "data.train: ")


def test_a_run_by_a_recipe_goes_on_without_naming_its_columns_again(place: Path) -> None:
    write_rows(Path("rows.jsonl"), [{f"my {name}": value for name, value in row.items()} for row in DATA["classes"]])
    recipe = "model: {from: nowhere}\ndata: {train: [{path: x}]}\nobjective: {kind: classification}\ntraining: {steps: 4, batch_size: 4}\n"
    Path("task.yaml").write_text(f"# For a test.\n{recipe}", encoding="utf-8")
    start = ["task.yaml", "--from", str(place / "bert"), "--data", "rows.jsonl", "--run", "run"]
    columns = "data.train.0.columns={text: my text, label: my label}"
    finetune(*start, columns, "carbon.enabled=false", "training.steps=6", before=strike(signal.SIGTERM, 2)).exits(143)
    assert finetune(*start, "--resume", "--json").exits(0).document["steps"] == 6
