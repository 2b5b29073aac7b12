"""A BERT folder as Hugging Face keeps it, small and with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tfrec.encoders.hugging_face import BertConfig, expected_shapes

SIZES = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "un",
    "##aff",
    "##able",
    "##a",
    "the",
    "cat",
    "!",
    ",",
    "猫",
]


@pytest.fixture(scope="session")
def write_bert() -> Callable[..., Path]:
    """Writes the folder; keywords replace values of `config.json`, and `pooler` says whether there is one."""
    return _write_bert


def _write_bert(folder: Path, pooler: bool = True, prefix: str = "", **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sizes = SIZES | values
    width = sizes["hidden_size"]
    shapes = expected_shapes(BertConfig.of(sizes | {"model_type": "bert", "hidden_act": "gelu"}, folder))
    if pooler:
        shapes |= {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}
    draw = np.random.default_rng(0)
    weights = {f"{prefix}{name}": draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder
