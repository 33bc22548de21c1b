import math
import re

import pytest

from tfkit.engine.request.gate import gate_error, parse_gate
from tfkit.errors import QualityGateError, UsageError

METRICS = ("loss", "perplexity")


def test_comparisons():
    for text, value, fails in (
        ("perplexity > 20", 20.0, False),
        ("perplexity > 20", 20.5, True),
        ("perplexity>=20", 20.0, True),
        ("perplexity < 1e1", 9.0, True),
        (" perplexity<= 20 ", 21.0, False),
        ("perplexity == 20", 20.0, True),
        ("perplexity != 20", 20.0, False),
        ("perplexity > inf", math.inf, False),
        ("perplexity >= inf", math.inf, True),
        ("perplexity < -1", math.nan, True),
    ):
        gate = parse_gate(text, METRICS)
        assert gate.fails(value) is fails, text
        error = gate_error([gate], {"perplexity": value})
        assert (error is not None) is fails
        assert error is None or re.match(r"quality gate failed: perplexity .* \(it is ", str(error))


@pytest.mark.parametrize("metric", ["loss", "2.loss", "dev-2.loss", "loss.syntax/semantics", "a set.loss"])
def test_sets_and_groups_have_any_names(metric):
    for text in (f"{metric} > 3", f"  {metric}>3"):
        gate = parse_gate(text, METRICS)
        assert (gate.metric, gate.comparison, gate.threshold) == (metric, ">", 3)


def test_another_form_unknown_names_and_what_is_no_number():
    forms = ("perplexity", "perplexity >", "> 3", "perplexity > 3 4", "perplexity => 3", "perplexity = 3", "", "3 < loss")
    said = dict.fromkeys(forms, "is not a comparison: write a metric") | dict.fromkeys(("loss > x", "loss > nan"), "not a number")
    for text, message in (said | {"accuracy > 1": "unknown metric 'accuracy'; the metrics are loss, perplexity"}).items():
        with pytest.raises(UsageError, match=message):
            parse_gate(text, METRICS)


def test_all_failing_gates_are_named():
    gates = [parse_gate(text, METRICS) for text in ("loss > 2", "loss > 4", "perplexity > 9.5")]
    error = gate_error(gates, {"loss": 3.0, "perplexity": 20.09})
    assert isinstance(error, QualityGateError)
    assert "loss > 2 (it is 3), perplexity > 9.5 (it is 20.09)" in str(error)
    assert error.exit_code == 8


def test_a_metric_that_is_also_a_fact_of_the_run_is_named_once():
    with pytest.raises(UsageError, match=r"the metrics are loss, perplexity, seconds$"):
        parse_gate("los > 1", (*METRICS, "loss", "seconds"))
