"""Which variables of a module are trained: all, or those of its last blocks.

A *block* is a run of variables whose names begin alike up to the first number in them: `encoder/layer_5`, `block_16`,
`fire9`, `conv5`. Blocks count in the order in which the module lists its trainable variables, as TF Hub's modules do from input
to output. What has no number joins the block before it (a pooler, the head); before the first block it is never among the last.
"""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from tfrec.config import EncoderTraining
from tfrec.errors import TfrecError

_BLOCK = re.compile(r"^.*?\d+")


def trained_variables(handle: str, module: Any, training: EncoderTraining, num_layers: int) -> list[tf.Variable]:
    """The variables that fine-tuning changes.

    Args:
        handle: of the module, for errors.
        module: loaded.
        training: `full`: all that are trainable; `top_layers`: those of the last blocks; `frozen`: none.
        num_layers: blocks counted from the output.

    Returns:
        The variables, in the module's order.

    Raises:
        TfrecError: If the module has no trainable variables, or fewer blocks than asked for.
    """
    if training == "frozen":
        return []
    variables = [variable for variable in getattr(module, "trainable_variables", ()) if variable.dtype.is_floating]
    if not variables:
        raise TfrecError(f"The module {handle} has no trainable variables. Use `training: frozen` or another module.")
    if training == "full":
        return variables
    found = blocks(variables)
    if num_layers > len(found):
        raise TfrecError(
            f"`trainable_layers` is {num_layers}, but the variables of the module {handle} name {len(found)} blocks. Use fewer, "
            "or `training: full`."
        )
    return [variable for block in found[-num_layers:] for variable in block]


def blocks(variables: list[tf.Variable]) -> list[list[tf.Variable]]:
    """The numbered blocks from input to output, each with its variables."""
    found: dict[str, list[tf.Variable]] = {}
    last: list[tf.Variable] | None = None
    for variable in variables:
        numbered = _BLOCK.match(variable.name.split(":")[0])
        if numbered:
            last = found.setdefault(numbered.group(), [])
        if last is not None:
            last.append(variable)
    return list(found.values())
