"""What tells the better of two checkpoints: the metrics that the evaluations of a training tell, and which way each of them is better."""

from tfkit.recipe.schema.objective_facts import ObjectiveSection

LOWER = frozenset({"loss", "perplexity", "bits_per_byte", "rmse", "nll", "mlm_loss", "next_sentence_loss", "choices", "lm"})
HIGHER = frozenset(
    {
        *("accuracy", "token_accuracy", "next_sentence_accuracy", "matthews", "pearson", "spearman"),
        *("precision", "recall", "f1", "f1_macro", "f1_micro"),
    }
)


def metrics_of(objective: ObjectiveSection) -> list[str]:
    """Those that can tell the best checkpoint of an objective; none that `tfkit evaluate` alone tells, of texts that the model writes."""
    return [name for name in objective.trained_for.training_metrics if name in LOWER | HIGHER]
