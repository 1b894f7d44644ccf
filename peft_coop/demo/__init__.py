"""A tiny CLIP, pretrained from scratch on drawn pictures, and tasks to try it on."""

from .loading import LEARNING_RATE, MODEL_PATH, PROTOCOL_FIELDS, learning_rate, load_clip, load_processor
from .tasks import (
    DemoCompositions,
    DemoScenes,
    DemoTask,
    load_composition_task,
    load_motion_task,
    load_scene_task,
    load_task,
)

__all__ = [
    "LEARNING_RATE",
    "MODEL_PATH",
    "PROTOCOL_FIELDS",
    "DemoCompositions",
    "DemoScenes",
    "DemoTask",
    "learning_rate",
    "load_clip",
    "load_composition_task",
    "load_motion_task",
    "load_processor",
    "load_scene_task",
    "load_task",
]
