"""A tiny CLIP, pretrained from scratch on drawn pictures, and two tasks to try it on."""

from .loading import LEARNING_RATE, MODEL_PATH, load_clip, load_processor
from .tasks import DemoTask, load_task

__all__ = ["LEARNING_RATE", "MODEL_PATH", "DemoTask", "load_clip", "load_processor", "load_task"]
