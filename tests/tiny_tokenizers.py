"""Tokenizers, as small as they go."""

import string

from fewstep.lazy import lazy_imports

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import transformers

LETTERS = string.ascii_lowercase + string.digits


def clip_tokenizer(length=12):
    """One token a letter."""
    said = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(letter + "</w>" for letter in LETTERS)]
    vocab = {token: number for number, token in enumerate(said)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_tokenizer():
    """One token a letter."""
    said = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
    vocab = [(token, 0.0 if token.startswith("<") else -1.0) for token in said]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0)
