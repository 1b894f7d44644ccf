"""Prompt learning for vision-language models as Hugging Face PEFT methods."""

from .startup import let_interrupts_end_the_process, starts_as_command

__version__ = "0.1.0"

__all__ = [
    "AutoPeftModelForImageClassification",
    "CoCoOpConfig",
    "CoOpConfig",
    "CoOpModel",
    "PeftModelForImageClassification",
    "PromptClassifierOutput",
]

if starts_as_command():  # it comes back here once it has read its arguments (`cli.main.load_package`)
    let_interrupts_end_the_process()
else:
    from .methods import CoCoOpConfig, CoOpConfig
    from .models import AutoPeftModelForImageClassification, PeftModelForImageClassification, PromptClassifierOutput
    from .registration import register
    from .tuners import CoOpModel

    register()
