"""Tokenizers, built on the `tokenizers` library: training, loading, saving. Their files are those that AutoTokenizer reads."""

import tokenizers

from tfkit.tokenizer.kinds import train_byte_bpe as train_byte_bpe
from tfkit.tokenizer.kinds import train_tokenizer as train_tokenizer
from tfkit.tokenizer.tokenizer import Tokenizer as Tokenizer
from tfkit.tokenizer.tokenizer_files import load_tokenizer as load_tokenizer
from tfkit.tokenizer.tokenizer_files import save_tokenizer as save_tokenizer

Backend = tokenizers.Tokenizer
LIBRARY_VERSION = tokenizers.__version__
