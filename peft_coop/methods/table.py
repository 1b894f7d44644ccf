"""The table of methods that registration, model card, command line, reports, benchmark and tests loop over."""

from .base import Method
from .cocoop import COCOOP
from .coop import COOP
from .csp import CSP
from .dense_clip import DENSE_CLIP
from .ivlp import IVLP
from .kgcoop import KGCOOP
from .maple import MAPLE
from .prograd import PROGRAD
from .promptsrc import PROMPTSRC
from .tcp import TCP
from .video_prompt import VIDEO_PROMPT
from .vpt import VPT

# Their titles stand in `titles.json` too, which the command line reads before it imports anything heavy.
EVERY = (COOP, COCOOP, KGCOOP, PROGRAD, TCP, MAPLE, IVLP, VPT, PROMPTSRC, CSP, VIDEO_PROMPT, DENSE_CLIP)
METHODS: dict[str, Method] = {method.key: method for method in EVERY}
"""Every method by its key; `register_method` adds to it."""

DEFAULT_METHOD = next(iter(METHODS))
"""The key of what is learned where no method is named."""


def find_method(key: str) -> Method:
    """The method of a key.

    Raises:
        ValueError: if there is none.
    """
    if key not in METHODS:
        raise ValueError(f"`method` must be one of {tuple(METHODS)}, got {key!r}.")
    return METHODS[key]
