import pytest

from tfkit.tokenizer import END_OF_TEXT, train_byte_bpe
from tfkit.tokenizer.entries import token_bytes

CORPUS = ["def add(a, b):\n    return a + b\n" * 20, "Grüße, 世界! 🦊 \r\n\ttabs" * 10]
WITH_BOS = train_byte_bpe(CORPUS, 400, add_bos=True)
PLAIN = train_byte_bpe(CORPUS, 400, add_bos=False)


def test_the_special_token_in_a_text_is_text() -> None:
    text = f"before {END_OF_TEXT} after"
    ids = WITH_BOS.encode_texts([text])[0]
    assert 0 not in ids[1:]
    assert WITH_BOS.decode(ids[1:]) == text


def test_training_twice_gives_the_same_file() -> None:
    again = train_byte_bpe(CORPUS, 400, add_bos=True)
    assert again.tokenizer_json == WITH_BOS.tokenizer_json
    assert again.fingerprint() == WITH_BOS.fingerprint() != PLAIN.fingerprint()


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="need 257"):
        train_byte_bpe(CORPUS, 256, add_bos=True)


def test_an_unknown_id_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="400"):
        token_bytes(WITH_BOS, 400)


@pytest.mark.parametrize("character", ["x", "7", " ", "+", "_"])
def test_a_word_without_end_is_learned_from(character: str) -> None:
    tokenizer = train_byte_bpe([character * 100_000, "ab " * 20], 300, add_bos=True)
    assert len(tokenizer.encode_texts([character * 256])[0]) < 10
