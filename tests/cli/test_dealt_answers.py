"""Results of a rank, of an evaluation or of predictions, reach the others as JSON without loss, for every objective."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answer_runs import KINDS, made_rows

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import Meter, Reading
from tfkit.engine.inference.evaluator import Evaluator
from tfkit.engine.inference.predicting import open_predictor
from tfkit.engine.inference.session import Session
from tfkit.engine.listener import Silent
from tfkit.parallel.rank_map import RankMap, serial_map
from tfkit.run.signals import interrupts
from tfkit.training.isolation import isolated


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
def test_evaluations_and_predictions_are_the_same_through_json(answers: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(answers)
    assert repr(evaluated_and_predicted(name, through_json)) == repr(evaluated_and_predicted(name, serial_map))
