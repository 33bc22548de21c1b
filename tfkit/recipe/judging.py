"""What tells the better of two checkpoints: the metrics that an objective's evaluation tells, and which way each of them is better."""

from tfkit.recipe.objectives import ClassificationSection, ObjectiveSection, trained_for

LOWER = frozenset({"loss", "perplexity", "bits_per_byte", "rmse", "nll", "mlm_loss", "next_sentence_loss", "choices", "lm"})
HIGHER = frozenset({"accuracy", "f1", "f1_macro", "token_accuracy", "next_sentence_accuracy", "matthews", "pearson", "spearman"})
_OF_A_NUMBER = frozenset({"loss", "rmse", "pearson", "spearman"})


def metrics_of(objective: ObjectiveSection) -> list[str]:
    """Those that can tell a best checkpoint: the way that is better is known, and the evaluations of a training have them."""
    objective = trained_for(objective)
    known = [name for name in objective.metrics if name in LOWER | HIGHER]
    if isinstance(objective, ClassificationSection):
        known = [name for name in known if name == "loss" or (name in _OF_A_NUMBER) == objective.regression]
    return known
