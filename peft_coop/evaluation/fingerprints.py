"""What tells a pretrained model from another of the same name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..towers import fingerprint

if TYPE_CHECKING:
    from .frozen_clip import FrozenCLIP

# Parts of a tokenizer that its last call has set.
OF_LAST_CALL = ("padding", "truncation")


def clip_fingerprint(clip: FrozenCLIP) -> str:
    """What tells a CLIP's weights, image processor and tokenizer from others, see `towers.fingerprint`.

    Args:
        clip: on any device.
    """
    texts = (_image_settings(clip.processor.image_processor), _vocabulary(clip.processor.tokenizer))
    return fingerprint(clip.model.state_dict(), texts)


def _image_settings(processor: Any) -> str:
    return json.dumps(json.loads(processor.to_json_string()), sort_keys=True)


def _vocabulary(tokenizer: Any) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    settings = {"vocabulary": tokenizer.get_vocab()} if fast is None else json.loads(fast.to_str())
    return json.dumps({name: settings[name] for name in settings if name not in OF_LAST_CALL}, sort_keys=True)
