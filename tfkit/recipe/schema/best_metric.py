"""What tells the better of two checkpoints: the metrics that the evaluations of a training tell, and which way each of them is better."""

from tfkit.recipe.schema.objective_sections import (
    ClassificationSection,
    MaskedLMSection,
    MultipleChoiceSection,
    ObjectiveSection,
    TextToTextSection,
)

LOWER = frozenset({"loss", "perplexity", "bits_per_byte", "rmse", "nll", "mlm_loss", "next_sentence_loss", "choices", "lm"})
HIGHER = frozenset(
    {
        *("accuracy", "token_accuracy", "next_sentence_accuracy", "matthews", "pearson", "spearman"),
        *("precision", "recall", "f1", "f1_macro", "f1_micro"),
    }
)
_OF_NUMBERS = frozenset({"rmse", "pearson", "spearman"})


def metrics_of(objective: ObjectiveSection) -> list[str]:
    """Those that can tell the best checkpoint of an objective; none that `tfkit evaluate` alone tells, of texts that the model writes."""
    objective = objective.trained_for
    known = [name for name in objective.metrics if name in LOWER | HIGHER]
    match objective:
        case ClassificationSection():
            return [name for name in known if name == "loss" or (name in _OF_NUMBERS) == objective.regression]
        case MaskedLMSection() if not objective.next_sentence:
            return [name for name in known if name not in ("mlm_loss", "next_sentence_loss", "next_sentence_accuracy")]
        case MultipleChoiceSection() if not objective.lm_weight:
            return [name for name in known if name != "lm"]
        case TextToTextSection() if not objective.label_smoothing:
            return [name for name in known if name != "nll"]
    return known
