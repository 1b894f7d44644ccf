"""Prompt learning for vision-language models as Hugging Face PEFT methods."""

from .startup import let_interrupts_end_the_process, starts_as_command

__version__ = "0.1.0"

__all__ = [
    "AutoPeftModelForImageClassification",
    "AutoPeftModelForSemanticSegmentation",
    "AutoPeftModelForVideoClassification",
    "Head",
    "ImageClassificationHead",
    "LossPartsCallback",
    "PeftModelForImageClassification",
    "PeftModelForSemanticSegmentation",
    "PeftModelForVideoClassification",
    "PromptClassifierOutput",
    "PromptSegmenterOutput",
    "PromptTuner",
    "SemanticSegmentationHead",
    "VideoClassifierOutput",
    "join_towers",
    "register_method",
    "slide_inference",
]

if starts_as_command():  # it comes back here once it has read its arguments (`cli.main.load_package`)
    let_interrupts_end_the_process()
else:
    from . import czsl, methods
    from .czsl import *  # noqa: F403  the numbers of compositional zero-shot learning: NumPy alone, so no time
    from .heads import (
        Head,
        ImageClassificationHead,
        PromptClassifierOutput,
        PromptSegmenterOutput,
        SemanticSegmentationHead,
        VideoClassifierOutput,
    )
    from .methods import *  # noqa: F403  the config of every method, and what one is made of
    from .models import LossPartsCallback, PromptTuner
    from .peft_model import (
        AutoPeftModelForImageClassification,
        AutoPeftModelForSemanticSegmentation,
        AutoPeftModelForVideoClassification,
        PeftModelForImageClassification,
        PeftModelForSemanticSegmentation,
        PeftModelForVideoClassification,
        slide_inference,
    )
    from .registration import register, register_method
    from .towers import join_towers

    __all__ += czsl.__all__
    __all__ += methods.__all__
    register()
