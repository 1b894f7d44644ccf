"""Load the CLIP that ships with the package."""

from pathlib import Path

from transformers import CLIPModel, CLIPProcessor

LEARNING_RATE = 0.02
"""In the place of the papers' 0.002: this CLIP's logit scale is a fifth of OpenAI's, and the gradients depend on it.

Chosen on training images that were not drawn. `learning_rate` has that of each method.
"""
# Of methods that another rate was better for, likewise; examples/demo_learning_rates is the search.
METHOD_LEARNING_RATES = {"ivlp": 0.01, "vpt": 0.001}
# Of protocols that train in another way, likewise: of compositions with Adam, in the place of 5e-5. Of images with
# several labels it is the papers', since a scale is learned with them.
PROTOCOL_LEARNING_RATES = {
    "several labels": 0.002,
    "composition": 0.005,
    "segmentation": 0.001,
    **dict.fromkeys(("video-few-shot", "video-base-to-new"), 0.003),
}
PROTOCOL_FIELDS = {
    "segmentation": {"decoder_width": 64, "decoder_layers": 1, "head_channels": 64, "max_class_tokens": 8},
}
"""Settings by protocol, where a method has parts of a size of their own: that of this CLIP."""
MODEL_PATH = str(Path(__file__).parent / "model")
"""The folder of the CLIP, which `from_pretrained` of transformers reads."""


def learning_rate(method: str = "", protocol: str = "") -> float:
    """Where the schedule starts when a method is trained on the tiny CLIP, in the place of the papers' rate.

    Args:
        method: its key, such as "coop"; other ones have the rate of all.
        protocol: the experiment; where all methods are trained alike, the rate is that one's.
    """
    of_method = METHOD_LEARNING_RATES.get(method, LEARNING_RATE)
    return PROTOCOL_LEARNING_RATES.get(protocol, of_method)


def load_clip() -> CLIPModel:
    """The tiny CLIP, in evaluation mode: 48-pixel images, texts of up to 40 tokens, 128 dimensions."""
    return CLIPModel.from_pretrained(MODEL_PATH).eval()


def load_processor() -> CLIPProcessor:
    """Its tokenizer and image processor."""
    return CLIPProcessor.from_pretrained(MODEL_PATH)
