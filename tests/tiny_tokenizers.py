"""Tokenizers of the real classes, made on the spot from a tiny vocabulary.

Each knows `WORDS`, the letters and some punctuation, and puts around a text what its class puts there.
"""

from collections.abc import Iterable

from sentencepiece import sentencepiece_model_pb2 as sentencepiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    Siglip2Tokenizer,
    SiglipTokenizer,
    Tipsv2Tokenizer,
    XLMRobertaTokenizer,
)

WORDS = [
    "a",
    "the",
    "photo",
    "picture",
    "of",
    "cat",
    "dog",
    "bird",
    "horse",
    "ship",
    "type",
    "pet",
    "big",
    "red",
    "one",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,-'()"
START = "▁"  # what SentencePiece writes for the space before a word


def merges_of(words: Iterable[str], last: str = "") -> list[tuple[str, str]]:
    """Merges of byte-pair encoding that build each word from its letters, from left to right.

    Args:
        words: the words; a word may begin with a mark of its own.
        last: what the last letter of each word carries ("</w>" in CLIP's vocabulary).
    """
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [*word[:-1], word[-1] + last]
        for end in range(1, len(letters)):
            merges.setdefault(("".join(letters[:end]), letters[end]))
    return list(merges)


def numbered(*tokens: Iterable[str]) -> dict[str, int]:
    """A vocabulary: ids in the order given, a token that comes twice once."""
    return {token: index for index, token in enumerate(dict.fromkeys(token for part in tokens for token in part))}


def byte_letters() -> list[str]:
    """The 256 letters of byte-level vocabularies."""
    return sorted(ByteLevel.alphabet())


def clip(_file: str, **settings) -> PreTrainedTokenizerBase:
    """<|startoftext|> text <|endoftext|>; EOS is the highest id, as in CLIP's vocabulary, and `!` is 0."""
    merges = merges_of(WORDS, last="</w>")
    letters = byte_letters()
    vocab = numbered(
        letters,
        (letter + "</w>" for letter in letters),
        ("".join(merge) for merge in merges),
        ["<|startoftext|>", "<|endoftext|>"],
    )
    return CLIPTokenizer(vocab=vocab, merges=merges, **settings)


def owl(_file: str, **settings) -> PreTrainedTokenizerBase:
    """CLIP's, told to pad with `!`, which is 0."""
    return clip(_file, pad_token="!", **settings)


def bert(_file: str, **settings) -> PreTrainedTokenizerBase:
    """[CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = numbered(special, WORDS, LETTERS, ("##" + letter for letter in LETTERS), PUNCTUATION)
    return BertTokenizer(vocab=pieces, **settings)


def xlm_roberta(_file: str, **settings) -> PreTrainedTokenizerBase:
    """<s> text </s>; the pad id is 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [START + word for word in WORDS]
    scores = {**dict.fromkeys(special, 0.0), **dict.fromkeys(words, -3.0)}
    scores |= dict.fromkeys([START, *LETTERS, *PUNCTUATION], -9.0) | {"<mask>": 0.0}
    return XLMRobertaTokenizer(vocab=list(scores.items()), **settings)


def roberta(_file: str, **settings) -> PreTrainedTokenizerBase:
    """<s> text </s>; the pad id is 1, and a word is another token after a space than at the start."""
    merges = merges_of([*("Ġ" + word for word in WORDS), *WORDS])
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = numbered(special, byte_letters(), ("".join(merge) for merge in merges))
    return RobertaTokenizer(vocab=vocab, merges=merges, **settings)


def siglip(vocab_file: str, **settings) -> PreTrainedTokenizerBase:
    """Text </s>, which pads too; the class strips punctuation.

    Args:
        vocab_file: where the SentencePiece model that the class reads is written to.
        **settings: go to the class.
    """
    model = sentencepiece.ModelProto()
    kinds = model.SentencePiece
    special = [("<pad>", kinds.CONTROL), ("</s>", kinds.CONTROL), ("<unk>", kinds.UNKNOWN)]
    words = [(START + word, -3.0) for word in WORDS]
    letters = [(letter, -9.0) for letter in [START, *LETTERS, *"<>"]]
    for piece, kind in special:
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in words + letters:
        model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 2, -1
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = 1, 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    with open(vocab_file, "wb") as file:
        file.write(model.SerializeToString())
    return SiglipTokenizer(vocab_file, model_input_names=["input_ids"], **settings)


def siglip2(_file: str, **settings) -> PreTrainedTokenizerBase:
    """Text <eos>; there is a <bos> that is not used, and a word is another token after a space than at the start."""
    merges = merges_of([*(START + word for word in WORDS), *WORDS])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [START, *LETTERS, *PUNCTUATION]
    vocab = numbered(special, letters, ("".join(merge) for merge in merges))
    settings = {"add_eos_token": True, "model_input_names": ["input_ids"], "padding_side": "right", **settings}
    return Siglip2Tokenizer(vocab=vocab, merges=merges, **settings)


def tipsv2(_file: str, **settings) -> PreTrainedTokenizerBase:
    """The text alone, with nothing around it."""
    merges = merges_of(START + word for word in WORDS)
    vocab = numbered(["<pad>", "<unk>", START], LETTERS, PUNCTUATION, ("".join(merge) for merge in merges))
    return Tipsv2Tokenizer(vocab=vocab, merges=merges, **settings)
