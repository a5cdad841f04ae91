"""Wrappers around models that change how a model runs, not what it computes: they are taken off, so that hooks work."""

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return `model` without `torch.compile`, `DataParallel` and `DistributedDataParallel`, at any depth.

    A compiled model runs a graph in which hooks on its modules have no place; the others copy the model to devices.
    """
    model = _inner(model)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _inner(child)
        # What `module.compile()` and `module.forward = torch.compile(module.forward)` leave behind. The attribute goes,
        # as a module that was never compiled has none of its own, and attributes count in a model's fingerprint.
        vars(module).pop("_compiled_call_impl", None)
        written = getattr(vars(module).get("forward"), "_torchdynamo_orig_callable", None)
        if written is not None:
            del module.forward
            if module.forward != written:
                module.forward = written
    return model


def _inner(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        # By its name, because importing its class takes a second.
        elif type(model).__name__ == "OptimizedModule" and isinstance(model._orig_mod, nn.Module):
            model = model._orig_mod
        else:
            return model
