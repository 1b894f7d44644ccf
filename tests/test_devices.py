"""Nothing assumes the CPU: every tensor that the model makes lies where the model lies."""

from copy import deepcopy

import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peft_coop import CoCoOpConfig, CoOpConfig

CLASS_NAMES = ["cat", "dog", "kite (bird of prey)"]
METHODS = {"coop": CoOpConfig(n_ctx=4), "cocoop": CoCoOpConfig(meta_net_reduction=4)}

every_method = pytest.mark.parametrize("method", METHODS)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def model(tokenizer_path, method):
    torch.manual_seed(0)
    settings = METHODS[method].to_dict() | {"class_names": CLASS_NAMES, "tokenizer_name_or_path": tokenizer_path}
    return get_peft_model(make_clip(), CoOpConfig(**settings))


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, as CUDA does; copies and single numbers may cross."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.ndim]
        devices = {str(tensor.device) for tensor in tensors}
        assert len(devices) <= 1 or "copy" in str(function), f"{function} mixes {devices}"
        return function(*args, **(kwargs or {}))


def replicate(module: nn.Module, device: str) -> nn.Module:
    """What `nn.DataParallel` makes of a module for another device: own tensors, shared Python attributes."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = replicate(child, device)
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.to(device))
    for name, buffer in module._buffers.items():
        replica._buffers[name] = buffer.to(device)
    return replica


@every_method
def test_every_tensor_is_on_the_models_device(model, pixel_values):
    """The device "meta" computes shapes only, and so stands in for a GPU where there is none."""
    model.to("meta").train()
    with OneDevice():
        output = model(pixel_values=pixel_values.to("meta"))
        output.logits.sum().backward()
        with model.disable_adapter(), torch.no_grad():
            zero_shot = model(image_embeds=torch.randn(5, 40))
    assert output.logits.device.type == zero_shot.logits.device.type == "meta"
    assert all(each.grad.device.type == "meta" for each in model.parameters() if each.requires_grad)


@every_method
def test_replica_on_another_device_between_the_operations(model, pixel_values):
    """The threads of `nn.DataParallel`: one runs on another device while this one is in the middle of its prompts."""
    model.train()
    expected = model(pixel_values=pixel_values).logits
    replica = replicate(model, "meta")
    runs = []

    def run_replica(*_):
        if not runs:
            runs.append("began")
            runs.append(replica(pixel_values=pixel_values.to("meta")).logits.device.type)

    model.get_submodule("base_model.model.text_model.embeddings.base_layer.token_embedding").register_forward_hook(
        run_replica
    )
    with OneDevice():
        logits = model(pixel_values=pixel_values).logits
    assert runs == ["began", "meta"]
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("method", ["coop"])
def test_kept_features_follow_the_dtype(model):
    model.eval()
    image_embeds = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(image_embeds=image_embeds).text_embeds
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(image_embeds=image_embeds).text_embeds
        again = model(image_embeds=image_embeds).text_embeds
    assert torch.equal(again, expected)
    assert not torch.equal(rounded, expected)


@pytest.mark.gpu
@needs_cuda
@every_method
@pytest.mark.parametrize("labels_on", ["cpu", "cuda"])
def test_cuda_computes_what_the_cpu_does(model, pixel_values, labels_on):
    labels = torch.tensor([0, 1, 2, 1, 0])
    on_gpu = deepcopy(model).to("cuda")
    for mode in (True, False):
        model.train(mode)
        on_gpu.train(mode)
        expected = model(pixel_values=pixel_values, labels=labels, num_items_in_batch=torch.tensor(5))
        output = on_gpu(
            pixel_values=pixel_values.cuda(), labels=labels.to(labels_on), num_items_in_batch=torch.tensor(5)
        )
        torch.testing.assert_close(output.logits.cpu(), expected.logits, atol=2e-3, rtol=0)
        torch.testing.assert_close(output.loss.cpu(), expected.loss, atol=2e-3, rtol=0)
    output.loss.backward()
    assert all(each.grad.is_cuda for each in on_gpu.parameters() if each.requires_grad)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        assert on_gpu(pixel_values=pixel_values.cuda()).logits.dtype == torch.float32
    with torch.no_grad(), on_gpu.disable_adapter(), model.disable_adapter():
        logits = on_gpu(pixel_values=pixel_values.cuda()).logits.cpu()
        torch.testing.assert_close(logits, model(pixel_values=pixel_values).logits, atol=2e-3, rtol=0)
