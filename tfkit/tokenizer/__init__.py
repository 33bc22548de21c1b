"""Text to ids and back with the `tokenizers` library: train, load, save. Files are Hugging Face's, so that AutoTokenizer agrees."""

from tfkit.tokenizer.files import load_tokenizer, save_tokenizer
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.train import END_OF_TEXT, train_byte_bpe

__all__ = ["END_OF_TEXT", "Tokenizer", "load_tokenizer", "save_tokenizer", "train_byte_bpe"]
