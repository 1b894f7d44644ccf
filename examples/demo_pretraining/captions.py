"""What a picture may be called: many wordings for one picture, as captions found on the web have."""

from collections.abc import Sequence

from glyphs import GlyphPicture
from numpy.random import Generator

from peft_coop.demo.drawing import ShapePicture

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

STYLE_WORDINGS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of {}", "a photograph of {}", "a close photo of {}", "{} in daylight", "a good photo of {}"),
    "icon": ("an icon of {}", "clip art of {}", "a flat picture of {}", "a logo with {}"),
    "drawing": ("a drawing of {}", "a pencil sketch of {}", "{} drawn with crayons", "a sketch of {}"),
    "painting": ("a painting of {}", "{} in oil paint", "{} painted with a broad brush"),
    "neon": ("a neon sign of {}", "{} in neon light", "a glowing neon tube, {}"),
    "chalk": ("a chalk drawing of {}", "{} in chalk", "{} on a blackboard"),
    "pixels": ("a pixelated picture of {}", "a low-resolution picture of {}", "{} in a few pixels"),
    "night": ("{} at night", "{} in the dark", "a dim view of {} at night", "{} after sunset"),
    "scan": ("a scan of {}", "a coarse scan of {}", "{}, scanned", "a scanned form with {}", "{} on a scanned page"),
}
ANY_STYLE = ("{}", "a picture of {}", "an image of {}", "this is {}", "{} and nothing else", "here is {}")
TEXTURE_WORDINGS = {
    "striped": ("striped {}", "{} with stripes"),
    "dotted": ("dotted {}", "{} with dots"),
    "checked": ("checked {}", "{} with checks"),
}
WRITING_WORDINGS: dict[str, tuple[str, ...]] = {
    "pen": ("{} in handwriting", "{} written by hand", "{} written with a pen"),
    "plain": ("{} in print", "{} in plain type"),
    "bold": ("{} in print", "{} in bold type"),
    "italic": ("{} in print", "{} in italic type"),
    "serif": ("{} in print", "{} in serif type"),
    "typewriter": ("{} in print", "{} from a typewriter"),
}


def choose(options: Sequence[str], rng: Generator) -> str:
    """One of the options, each as likely as the others."""
    return options[int(rng.random() * len(options))]


def with_article(noun: str) -> str:
    """ "red star" to "a red star"; "orange star" to "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def shape_subject(picture: ShapePicture, rng: Generator) -> str:
    """Colour and shape, often with texture, size or background."""
    subject = f"{picture.colour} {picture.shape}"
    if picture.texture != "plain" and rng.random() < 0.5:
        subject = choose(TEXTURE_WORDINGS[picture.texture], rng).format(subject)
    if picture.size != "medium" and rng.random() < 0.25:
        subject = f"{picture.size} {subject}"
    subject = with_article(subject)
    shows_background = picture.style in ("photo", "icon", "painting", "pixels")
    if shows_background and rng.random() < 0.25:
        subject += f" on {with_article(picture.background)} background"
    return subject


def glyph_subject(picture: GlyphPicture, rng: Generator) -> str:
    """The digit or letter, often with how it is written or its colours."""
    glyph = picture.glyph
    if glyph.isdigit():
        name = DIGIT_WORDS[int(glyph)] if rng.random() < 0.7 else glyph
        article = "an" if name in ("8", "eight") else "a"
        wordings = ("the digit {}", "the number {}", article + " {}", "digit {}", "number {}")
        subject = choose(wordings, rng).format(name)
    else:
        case = "capital" if glyph.isupper() else "small"
        subject = choose((f"the letter {glyph}", f"the {case} letter {glyph}", f"a {case} {glyph}"), rng)
    if rng.random() < 0.25:
        subject = choose(WRITING_WORDINGS[picture.writing], rng).format(subject)
    if rng.random() < 0.2:
        subject += f", {picture.ink} on {picture.background}"
    return subject


def plain_name(picture: ShapePicture | GlyphPicture) -> str:
    """What is to be seen and no more: "a red star", "the digit three", "the letter a"."""
    if isinstance(picture, ShapePicture):
        return with_article(f"{picture.colour} {picture.shape}")
    glyph = picture.glyph
    return f"the digit {DIGIT_WORDS[int(glyph)]}" if glyph.isdigit() else f"the letter {glyph}"


def caption(picture: ShapePicture | GlyphPicture, rng: Generator) -> str:
    """One wording of what is to be seen: two in five are plain names, about half name the style."""
    if rng.random() < 0.4:
        text = plain_name(picture)
    else:
        is_glyph = isinstance(picture, GlyphPicture)
        subject = glyph_subject(picture, rng) if is_glyph else shape_subject(picture, rng)
        wordings = STYLE_WORDINGS[picture.style] if rng.random() < 0.8 else ANY_STYLE
        text = choose(wordings, rng).format(subject)
    return text + ("." if rng.random() < 0.5 else "")
