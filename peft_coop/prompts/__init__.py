"""Class names to sequences of ids, and sequences to a prefix tree. Works on integers."""

from .class_names import check_class_names, check_template, check_text
from .pairs import PairWords, check_words, clean_word
from .reader import TextReader
from .sequences import CLASS_TOKEN_POSITIONS, PromptSequences
from .tokens import NameTokens, PromptTokenizer, find_tokenizer

__all__ = [
    "CLASS_TOKEN_POSITIONS",
    "NameTokens",
    "PairWords",
    "PromptSequences",
    "PromptTokenizer",
    "TextReader",
    "check_class_names",
    "check_template",
    "check_text",
    "check_words",
    "clean_word",
    "find_tokenizer",
]
