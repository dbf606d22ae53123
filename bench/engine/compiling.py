"""The repeated block of a model, compiled: its norms, activations and rotary embedding in a few passes over memory.

Only matrix products and attention are worth a kernel of their own; written out by transformers, all else is estimated
to take a fifth of a GPU's time. One block is compiled and serves for all of them, whatever a pack's length; attention
is left as it is. Packs of a single token, for which a block would be compiled once more, are computed uncompiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from bench.engine.pack import Pack

CompileError = TorchDynamoException
"""What comes of compiling where there is no compiler, or of code that cannot be compiled; raised by a first pass."""


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return a model's layers: the first list of modules in it, the outermost; empty if there is none."""
    return next((list(module) for module in model.modules() if isinstance(module, nn.ModuleList)), [])


def compile_blocks(model: nn.Module) -> None:
    """Have the model's repeated blocks compiled when they are first called."""
    for block in repeated_blocks(model):
        block.compile(dynamic=True)


def uncompile_blocks(model: nn.Module) -> None:
    """Undo `compile_blocks`, for which torch has no name; the compiled code stays in its cache."""
    for block in repeated_blocks(model):
        block._compiled_call_impl = None


@contextmanager
def uncompiled() -> Iterator[Any]:
    """Within this context nothing runs compiled."""
    with torch.compiler.set_stance("force_eager"):
        yield


def suits(pack: Pack) -> bool:
    """Whether compiled blocks take a pack."""
    return len(pack.tokens) > 1
