"""The ids that end a text are the same wherever a text is generated, and a sampled response has such an id only as its last token."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chats import FORMATS, chat_codec
from tiny_files import parse_rows, read_json, read_rows, write_rows
from tiny_rollouts import policy
from tiny_runs import run_tfkit

from tfkit.adapters import load
from tfkit.alignment.response_sampling import sample
from tfkit.alignment.rewards import PromptRow, Reward, Rules
from tfkit.alignment.user_code import NO_CODE
from tfkit.data import Encoded, Row
from tfkit.hub import save_model
from tfkit.objectives import chat, reward
from tfkit.objectives.context import ModelContext
from tfkit.objectives.grpo import GRPO
from tfkit.objectives.ppo import PPO
from tfkit.objectives.rollouts import RolloutObjective
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.recipe.schema.preference_sections import RewardSection
from tfkit.recipe.schema.rollout_sections import GRPOSection, PPOSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.chat_formats import FORMATS as FORMATS_BY_NAME
from tfkit.tokenizer.conversations import Conversations, end_ids, resolve_format

TALKER = chat.fit_tokenizer(ChatSection(kind="chat", format="chatml"), chat_codec("chatml"))
TURN = TALKER.backend.token_to_id("<|im_end|>")
PROMPTS = [f"the cat {number}" for number in range(6)]
LONGEST = 8


def checkpoint(folder: Path, tokenizer: Tokenizer, stated: list[int], **changes: Any) -> Path:
    """Write a model with random weights whose generation_config.json states these end ids."""
    folder.mkdir(parents=True)
    model = policy(vocab_size=tokenizer.size, context_length=160, **changes)
    save_model(folder, model.config, model.state_dict(), tokenizer)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(read_json(path) | {"eos_token_id": stated}), encoding="utf-8")
    return folder


class ReadingRules(Rules):
    """Rules that record the texts that they read, and give each the reward 1."""

    def __init__(self) -> None:
        super().__init__([], NO_CODE)
        self.texts: list[str] = []

    def __call__(self, row: PromptRow, text: str) -> Reward:
        self.texts.append(text)
        return Reward(1.0, True)


def objectives(context: ModelContext, chat: bool) -> Iterator[RolloutObjective]:
    fields: dict[str, Any] = {"rules": [{"kind": "valid_json"}], "max_new_tokens": LONGEST, "chat": chat}
    yield GRPO(GRPOSection.model_validate({"kind": "grpo", **fields}), context)
    yield PPO(PPOSection.model_validate({"kind": "ppo", "value": "made", **fields}), context, None)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, TALKER.size - 1), unique=True, max_size=120), st.booleans(), st.booleans(), st.integers(0, 9))
def test_a_response_has_an_end_only_as_its_last_token(
    tmp_path_factory: pytest.TempPathFactory, stated: list[int], has_template: bool, is_chat: bool, seed: int
) -> None:
    tokenizer = TALKER if has_template else chat_codec("chatml")
    folder = checkpoint(tmp_path_factory.mktemp("ends") / "model", tokenizer, stated)
    loaded = load(folder)
    ends = {tokenizer.eos_id, *stated, *([TURN] if has_template else [])}
    assert {*loaded.eos_ids} == ends  # those of `tfkit generate`
    context = ModelContext(loaded.config, loaded.codec, [], 1, folder)
    for objective in objectives(context, is_chat and has_template):
        assert objective.rollouts.end_ids == ends
        encoded = objective.encode([Row(text, "here", {"prompt": text}) for text in PROMPTS])
        examples = [one.example() for one in encoded if isinstance(one, Encoded)]
        rules = ReadingRules()
        made = sample(loaded.model, examples, objective.rollouts, rules, completions=4, seed=seed, batch_size=5)
        assert len(made) == 4 * len(PROMPTS)
        for one, text in zip(made, rules.texts, strict=True):
            assert not ends & {*one.ids[:-1]}
            assert one.ended == (one.ids[-1] in ends)
            assert one.ended or len(one.ids) == LONGEST
            alone = loaded.codec.decode(one.text_ids, skip_special_tokens=True)
            assert "\ufffd" in text + alone or text == alone  # without the end, which may be an ordinary token


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_end_of_a_turn_is_that_of_the_format_that_a_chat_trains(name: str, system: str | None) -> None:
    system = system if FORMATS_BY_NAME[name].has_system else None
    tokenizer = chat.fit_tokenizer(ChatSection.model_validate({"kind": "chat", "format": name, "system": system}), chat_codec(name))
    form = resolve_format(name, tokenizer, system)
    assert {*end_ids(tokenizer)} == {tokenizer.eos_id, Conversations(tokenizer, form, system, Path("here")).end_id} - {None}


def test_a_tokenizer_that_an_objective_changes_keeps_the_ends(tmp_path: Path) -> None:
    described = load(checkpoint(tmp_path / "model", chat_codec("chatml"), [80, 81])).codec
    changed = [chat.fit_tokenizer(ChatSection(kind="chat", format="chatml"), described), described.with_special_tokens(["<new>"])]
    changed.append(reward.fit_tokenizer(RewardSection(kind="reward"), described, is_finished=True))
    assert all({80, 81, described.eos_id} <= {*end_ids(tokenizer)} for tokenizer in changed)


def test_an_adapter_has_the_ends_of_its_base_or_its_own(tmp_path: Path, run: Callable[..., str]) -> None:
    checkpoint(tmp_path / "base", TALKER, [80, 81])
    words = ["model.from=base", "training.adapter={rank: 2}", "training.steps=1", "optimizer.lr=1e-3"]
    run("finetune", "chat.yaml", "--run", "adapted", *words)
    ends = {TALKER.eos_id, TURN, 80, 81}
    assert {*load(tmp_path / "adapted").eos_ids} == {*end_ids(load(tmp_path / "adapted").codec or TALKER)} == ends
    folder = next((tmp_path / "adapted" / "checkpoints").iterdir())
    for name in ("config.json", "generation_config.json", "manifest.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)  # as peft writes an adapter
    assert {*load(folder).eos_ids} == {*end_ids(load(folder).codec or TALKER)} == ends


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in a folder with conversations, prompts and recipes; return its output."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": text, "completion": f"{number} mats"} for number, text in enumerate(PROMPTS)])
    write_rows(tmp_path / "asked.jsonl", [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS])
    training = {"steps": 1, "batch_size": 2, "precision": "fp32"}
    common = {"model": {"from": "base"}, "training": training, "carbon": {"enabled": False}, "optimizer": {"lr": 1e-30}}
    common |= {"evaluation": {"every": 1}, "generation": {"temperature": 0, "max_new_tokens": LONGEST}}
    sampling = {"max_new_tokens": LONGEST, "temperature": 1e-4, "prompts": 1, "completions": 2}
    for kind, rows, fields in (("chat", "rows", {}), ("grpo", "asked", {"rules": [{"kind": "valid_json"}], **sampling})):
        data = {part: [{"path": f"{rows}.jsonl"}] for part in ("train", "validation")}
        recipe = common | {"objective": {"kind": kind, **fields}, "data": data}
        (tmp_path / f"{kind}.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return lambda *words: run_tfkit(tmp_path, words).exits(0).out


@pytest.mark.thorough
def test_every_command_writes_the_same_texts(tmp_path: Path, run: Callable[..., str]) -> None:
    """A checkpoint with a sixth of its vocabulary as end ids answers a prompt greedily in the same way in every command."""
    stated = random.Random(1).sample(range(TALKER.size), TALKER.size // 6)
    base = checkpoint(tmp_path / "base", TALKER, stated, init={"std": 0.8}, norm={"kind": "rms"})
    (tmp_path / "asked.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    settings = ["generation.temperature=0", f"generation.max_new_tokens={LONGEST}"]
    generated = parse_rows(run("generate", "--from", "base", "--chat", "--input", "asked.txt", *settings))
    texts = [line["completion"].strip() for line in generated]
    assert {line["finish"] for line in generated} >= {"stop"}
    assert any(texts)
    run("finetune", "chat.yaml", "--run", "talk", f"generation.prompts={json.dumps(PROMPTS)}")
    [sampled] = [record["samples"] for record in read_rows(tmp_path / "talk" / "metrics.jsonl") if "samples" in record]
    found = {"samples in training": [one["completion"].strip() for one in sampled]}
    run("evaluate", "chat.yaml", "--from", "base", "--predictions", "scored.jsonl")
    found["evaluate"] = [line["text"] for line in read_rows(tmp_path / "scored.jsonl")]
    run("predict", "--from", "base", "--data", "rows.jsonl", "--out", "predicted.jsonl", *settings)
    found["predict"] = [line["prediction"] for line in read_rows(tmp_path / "predicted.jsonl")]
    run("finetune", "grpo.yaml", "--run", "rewarded")
    run("evaluate", "--from", "rewarded", "--predictions", "rewarded.jsonl")
    found["rollouts"] = [line["response"].strip() for line in read_rows(tmp_path / "rewarded.jsonl")]
    assert found == dict.fromkeys(found, texts)
    assert {*load(base).eos_ids} == {*load(tmp_path / "talk").eos_ids} == {*load(tmp_path / "rewarded").eos_ids}
