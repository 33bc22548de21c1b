"""Tokenizers, built on the `tokenizers` library: training, loading, saving. Files have Hugging Face's format, which AutoTokenizer reads."""

from tokenizers import Tokenizer as Backend
from tokenizers import __version__ as LIBRARY_VERSION

from tfkit.tokenizer.kinds import END_OF_TEXT, train_byte_bpe, train_tokenizer
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_files import load_tokenizer, save_tokenizer

__all__ = [
    "END_OF_TEXT",
    "LIBRARY_VERSION",
    "Backend",
    "Tokenizer",
    "load_tokenizer",
    "save_tokenizer",
    "train_byte_bpe",
    "train_tokenizer",
]
