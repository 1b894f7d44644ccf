"""Zero-shot accuracy of a CLIP on a task of the demo."""

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from peft_coop.demo import DemoTask


@torch.no_grad()
def image_embeds(model: CLIPModel, processor: CLIPProcessor, images: list, batch_size: int = 256) -> Tensor:
    """`[N, P]`, L2-normalised image features of PIL images."""
    embeds = []
    for start in range(0, len(images), batch_size):
        batch = processor(images=images[start : start + batch_size], return_tensors="pt")
        features = model.visual_projection(model.vision_model(**batch).pooler_output)
        embeds.append(features / features.norm(dim=-1, keepdim=True))
    return torch.cat(embeds)


@torch.no_grad()
def zero_shot_accuracy(model: CLIPModel, processor: CLIPProcessor, task: DemoTask) -> float:
    """Fraction of the task's test images whose class is named by the most similar prompt."""
    prompts = [task.zero_shot_template.format(name) for name in task.class_names]
    text = processor(text=prompts, padding=True, return_tensors="pt")
    text_embeds = model.text_projection(model.text_model(**text).pooler_output)
    similarity = image_embeds(model, processor, list(task.test["image"])) @ text_embeds.T / text_embeds.norm(dim=-1)
    return (similarity.argmax(dim=1) == torch.tensor(task.test["label"])).float().mean().item()
