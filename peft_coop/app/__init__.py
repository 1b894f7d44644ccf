"""A page to try prompts on: pictures in, probabilities beside zero-shot CLIP's out; it needs the extra `app`."""

from .classifiers import SharedClassifier, start_without_prompt
from .serving import serve
from .shelf import Shelf
from .space import write_space

__all__ = ["SharedClassifier", "Shelf", "serve", "start_without_prompt", "write_space"]
