"""DenseCLIP in transformers' own Trainer: parts of images to train on, masks to evaluate on, the scores of pixels."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from peft_coop import DenseCLIPConfig, LossPartsCallback
from peft_coop.data import AugmentationCallback, AugmentedMasks, PreparedMasks, load_masks, mask_image_processor
from peft_coop.demo import load_clip, load_processor
from peft_coop.evaluation.segmentation import PixelCounts, TrainerPixelMetrics, predicted_classes


@pytest.fixture(scope="module")
def data():
    return load_masks("demo:scenes")


@pytest.fixture(scope="module")
def processor():
    return mask_image_processor(load_processor().image_processor, {"height": 48, "width": 48})


@pytest.mark.parametrize("batch_by_batch", [True, False])
def test_the_trainer_trains_and_measures(data, processor, batch_by_batch, tmp_path):
    torch.manual_seed(0)
    config = DenseCLIPConfig(
        class_names=data.class_names, max_class_tokens=8, head_channels=8, decoder_width=8, out_indices=(0, 1, 2, 3)
    )
    model = get_peft_model(load_clip(), config)
    train = AugmentedMasks(data.train.select(range(4)), data.values, processor, 48, seed=1)
    test = PreparedMasks(data.test.select(range(3)), data.values, processor)
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        batch_eval_metrics=batch_by_batch,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=TrainerPixelMetrics(len(data.class_names)),
        preprocess_logits_for_metrics=predicted_classes,
        callbacks=[AugmentationCallback()],
    )
    before = model.base_model.model.prompt_layer.prompt.ctx.detach().clone()
    trainer.train()
    assert not torch.equal(before, model.base_model.model.prompt_layer.prompt.ctx)
    found = trainer.evaluate()
    counts = PixelCounts(len(data.class_names))
    model.eval()
    for index in range(3):
        item = test[index]
        with torch.no_grad():
            logits = model(pixel_values=item["pixel_values"][None]).logits
        counts.add(predicted_classes(logits, item["labels"][None]), item["labels"][None])
    expected = counts.scores()
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert found[f"eval_{name}"] == pytest.approx(expected[name], abs=1e-3)
    assert trainer.evaluate()["eval_mean_iou"] == found["eval_mean_iou"]  # nothing of the first time is counted again


def test_masks_keep_their_classes_when_they_are_resized(data, processor):
    test = PreparedMasks(data.test, data.values, processor)
    item = test[0]
    assert (len(test), item["pixel_values"].shape, item["labels"].shape) == (120, (3, 48, 48), (48, 48))
    assert set(item["labels"].unique().tolist()) <= {*range(13), 255}
    assert np.isfinite(item["pixel_values"].numpy()).all()
    with pytest.raises(ValueError, match="must have a height and a width as its size, got"):
        PreparedMasks(data.test, data.values, mask_image_processor(load_processor().image_processor, 48))


@pytest.mark.filterwarnings("ignore:The model is trained without `labels`")
def test_smoothed_labels_are_refused_in_words(data, processor, tmp_path):
    """The Trainer would look for classes in the last axis of logits, and say something of shapes."""
    names = {"class_names": data.class_names, "max_class_tokens": 8, "head_channels": 8, "decoder_width": 8}
    model = get_peft_model(load_clip(), DenseCLIPConfig(out_indices=(0, 1, 2, 3), **names))
    train = AugmentedMasks(data.train.select(range(2)), data.values, processor, 48, seed=1)
    settings = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_steps": 1}
    smoothed = TrainingArguments(str(tmp_path), label_smoothing_factor=0.1, **settings)
    words = r"`label_smoothing_factor` takes the last axis of logits .* give the Trainer a `compute_loss_func`"
    with pytest.raises(ValueError, match=words):
        Trainer(model, smoothed, train_dataset=train, callbacks=[LossPartsCallback()]).train()
    with pytest.warns(UserWarning, match=words), pytest.raises(RuntimeError, match="Size does not match"):
        Trainer(model, smoothed, train_dataset=train).train()

    def of_size(outputs, labels, num_items_in_batch):
        logits = torch.nn.functional.interpolate(outputs.logits, labels.shape[-2:], mode="bilinear")
        ignored = {"ignore_index": 255, "label_smoothing": 0.1}
        return torch.nn.functional.cross_entropy(logits, labels, **ignored)

    with pytest.warns(UserWarning, match=words):
        Trainer(
            model, TrainingArguments(str(tmp_path), **settings), train_dataset=train, compute_loss_func=of_size
        ).train()
