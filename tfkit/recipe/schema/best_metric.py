"""The metric of the best checkpoint: the metrics that evaluations during training compute, by their better direction."""

from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.objective_sections import TEXT_METRICS, metrics_of_texts

LOWER = frozenset({"loss", "perplexity", "bits_per_byte", "rmse", "nll", "mlm_loss", "next_sentence_loss", "choices", "lm", "calibration"})
HIGHER = frozenset(
    {
        *("accuracy", "token_accuracy", "next_sentence_accuracy", "matthews", "pearson", "spearman"),
        *("precision", "recall", "f1", "f1_macro", "f1_micro", "margin", "reward", "gold"),
        *TEXT_METRICS,
    }
)


def metrics_of(objective: ObjectiveSection) -> list[str]:
    """Return the metrics that can select an objective's best checkpoint; not those of generated texts, which only `tfkit evaluate` has."""
    section = objective.trained_for
    return [name for name in section.training_metrics if name in LOWER | HIGHER and name not in metrics_of_texts(section)]
