"""FLAN-T5 (Chung et al. 2022, arXiv 2210.11416).

T5 1.1, tuned on 1,800 tasks that are stated as instructions, some of them with a chain of thought. The layout is T5's.
"""

from dataclasses import replace

from tfkit.families import t5

_DROPOUT = dict.fromkeys(t5.DROPOUTS, 0.1)  # as released
PRESETS = {f"flan-t5-{size}": t5.PRESETS[f"t5-v1.1-{size}"] | {"dropout": _DROPOUT} for size in ("small", "base", "large", "xl", "xxl")}

FAMILY = replace(t5.FAMILY, name="flan_t5", presets=PRESETS)
