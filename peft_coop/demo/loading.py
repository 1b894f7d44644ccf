"""Load the CLIP that ships with the package."""

from pathlib import Path

from transformers import CLIPModel, CLIPProcessor

MODEL_PATH = str(Path(__file__).parent / "model")


def load_clip() -> CLIPModel:
    """The tiny CLIP, in evaluation mode: 48-pixel images, texts of up to 40 tokens, 128 dimensions."""
    return CLIPModel.from_pretrained(MODEL_PATH).eval()


def load_processor() -> CLIPProcessor:
    """Its tokenizer and image processor."""
    return CLIPProcessor.from_pretrained(MODEL_PATH)
