"""Bounds of the numbers in a recipe: far above anything published, but low enough that nothing overflows or allocates without limit.

Whether a model and its batches fit into the memory of a machine is found out only on that machine (exit code 5).
"""

from typing import Annotated

from pydantic import Field

# Steps, rows, intervals: thirty years at a thousand a second.
Count = Annotated[int, Field(gt=0, le=10**12)]
CountOrZero = Annotated[int, Field(ge=0, le=10**12)]
# Tokens: a thousand times those that the largest models were trained on. In float64 every integer up to this bound is exact.
Tokens = Annotated[int, Field(gt=0, le=9 * 10**15)]
# Rows gathered at once, which takes up to 50 us each: LAMB's largest batch (arXiv 1904.00962) has 65,536, GPT-3's 1,600.
BatchSize = Annotated[int, Field(gt=0, le=1 << 17)]
# The tokenizer's trainer allocates all entries at once, and aborts the process if it cannot: Gemma's 256,000 are the most in use.
MAX_VOCAB_SIZE = 1 << 20
VocabSize = Annotated[int, Field(gt=0, le=MAX_VOCAB_SIZE)]
# Bytes of text held while a tokenizer is trained.
SampleBytes = Annotated[int, Field(gt=0, le=1 << 40)]
# How often an epoch reads each row of a source; ten in BERT.
SourceWeight = Annotated[float, Field(gt=0, le=10_000)]
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]
# The product of a learning rate with any weight decay fits float32. A run that diverges at such a rate is ended by the checks of training
# (exit code 6).
LearningRate = Annotated[float, Field(gt=0, le=1e30)]
# Factors and divisors: their square and cube fit float32.
Positive = Annotated[float, Field(gt=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
LARGEST_REWARD = 1_000_000  # in absolute value: far beyond any use, and far from an overflow of sums and squares
RewardValue = Annotated[float, Field(ge=-LARGEST_REWARD, le=LARGEST_REWARD)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
# The rank of a LoRA update: it cannot exceed a matrix's width, which is at most 65,536 in published models.
Rank = Annotated[int, Field(gt=0, le=1 << 16)]
# Resamples of a bootstrap, each over all rows: a few thousand are enough for a precise interval.
Resamples = Annotated[int, Field(gt=0, le=100_000)]
# Tokens of a continuation: ten times the longest context of any model.
NewTokens = Annotated[int, Field(gt=0, le=100_000_000)]
# Beams are rows of a forward pass, each with a cache of its own.
Beams = Annotated[int, Field(gt=0, le=1_024)]
# Examples in a prompt: no context holds more.
Shots = Annotated[int, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(ge=0.5, le=86_400)]  # up to a day
Intensity = Annotated[float, Field(ge=0, le=100_000)]  # grams per kWh; coal has about 1,000
Effectiveness = Annotated[float, Field(ge=1, le=100)]  # of a data centre; 1.1 to 2 are usual
