"""Bounds of the numbers in a recipe: far above anything published, but low enough that nothing overflows or allocates without limit.

A number within its bound may still need more memory than a machine has: the run then ends with exit code 5.
"""

from typing import Annotated

from pydantic import Field

# Steps, rows and intervals: a thousand steps a second would take thirty years to reach this bound.
Count = Annotated[int, Field(gt=0, le=10**12)]
CountOrZero = Annotated[int, Field(ge=0, le=10**12)]
# Tokens: a few hundred times as many as the largest models were trained on. In float64 every integer up to this bound is exact.
Tokens = Annotated[int, Field(gt=0, le=9 * 10**15)]
# Rows of a batch. Putting a batch together takes up to 50 us a row, 7 s at this bound.
# LAMB's largest batch (arXiv 1904.00962) has 65,536 rows, GPT-3's 1,600.
BatchSize = Annotated[int, Field(gt=0, le=1 << 17)]
# Entries of a tokenizer. Its trainer first allocates memory for all of them, and aborts the process if it cannot. Gemma has 256,000.
MAX_VOCAB_SIZE = 1 << 20
VocabSize = Annotated[int, Field(gt=0, le=MAX_VOCAB_SIZE)]
# Bytes of the text that is in memory while a tokenizer is trained.
SampleBytes = Annotated[int, Field(gt=0, le=1 << 40)]
# How often an epoch reads each row of a source; BERT's data hold ten copies of each text.
SourceWeight = Annotated[float, Field(gt=0, le=10_000)]
Epochs = Annotated[float, Field(gt=0, le=1_000_000)]
# The product of a learning rate with any weight decay fits float32. A run that diverges at such a rate is ended by the checks of training
# (exit code 6).
LearningRate = Annotated[float, Field(gt=0, le=1e30)]
# Factors and divisors: squares and cubes of these numbers fit float32.
Positive = Annotated[float, Field(gt=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
LARGEST_REWARD = 1_000_000  # in absolute value: far beyond any use, and far from an overflow of sums and squares
RewardValue = Annotated[float, Field(ge=-LARGEST_REWARD, le=LARGEST_REWARD)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
# The rank of a LoRA update: it cannot exceed a matrix's width, which is at most 65,536 in published models.
Rank = Annotated[int, Field(gt=0, le=1 << 16)]
# Resamples of a bootstrap, each over all rows: a few thousand are enough for a precise interval.
Resamples = Annotated[int, Field(gt=0, le=100_000)]
# Tokens of a generated text: ten times the longest context of any model.
NewTokens = Annotated[int, Field(gt=0, le=100_000_000)]
# Beams of a search: each is a row of the forward pass, with a key-value cache of its own.
Beams = Annotated[int, Field(gt=0, le=1_024)]
# Examples in a few-shot prompt: a hundred times the most that GPT-3's context held.
Shots = Annotated[int, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(ge=0.5, le=86_400)]  # between two readings of a meter: from half a second to a day
Intensity = Annotated[float, Field(ge=0, le=100_000)]  # grams of CO2e per kWh; power from coal has about 1,000
Effectiveness = Annotated[float, Field(ge=1, le=100)]  # power usage effectiveness (PUE) of a data centre; 1.1 to 2 are usual
