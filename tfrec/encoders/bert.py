"""`python -m tfrec.encoders.bert import --from DIR --to DIR`: a TF Hub BERT pair from a Hugging Face style folder.

The folder holds `config.json`, `model.safetensors` and `vocab.txt` of a BERT (MiniLM and bge are such); what comes out,
`DIR/preprocess` and `DIR/encoder`, goes into `features.text.preprocessor` and `features.text.encoder`. The written pair is
loaded again and compared with an independent forward pass in NumPy; if they disagree, nothing is left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from tfrec.errors import TfrecError

if TYPE_CHECKING:
    from tfrec.encoders.hugging_face import BertCheckpoint

_TOLERANCE = 1e-4  # of the largest value
_TOKENS = 48
_SAMPLES = (
    "A cat plays the piano in a neon-lit city, 4K.",
    "Élan vital: naïve café, $5 & 50% off!",
    "一只小猫在睡觉。東京タワー 한국어 видео",
    "unaffable 🙂 x_y\tz\u200b",
    "",
    "The quick brown fox jumps over the lazy dog. " * 20,
)


def import_pair(source: Path, target: Path) -> float:
    """Makes a TF Hub pair, `target/preprocess` and `target/encoder`.

    Args:
        source: folder of the model.
        target: folder of the pair; must not exist.

    Returns:
        The largest absolute difference to the NumPy forward pass.

    Raises:
        TfrecError: If the folder cannot be used, or the pair does not compute what the model does.
    """
    import tensorflow as tf

    from tfrec.encoders.hub import save_module
    from tfrec.encoders.hugging_face import BertCheckpoint
    from tfrec.encoders.packing import DEFAULT_LENGTH
    from tfrec.encoders.transformer import BertEncoder
    from tfrec.encoders.wordpiece import WordPiecePreprocessor
    from tfrec.run import new_folder

    checkpoint = BertCheckpoint.read(source)
    with new_folder(target) as folder:
        length = min(DEFAULT_LENGTH, checkpoint.config.max_position_embeddings)
        casing = (checkpoint.lower_case, checkpoint.strip_accents)
        preprocessor = WordPiecePreprocessor(checkpoint.vocabulary, *casing, length)
        tf.saved_model.save(preprocessor, str(folder / "preprocess"))
        save_module(BertEncoder(checkpoint), folder / "encoder")
        return max_difference(checkpoint, folder)


def max_difference(checkpoint: BertCheckpoint, pair: Path) -> float:
    """The largest absolute difference of any output between a pair and the NumPy forward pass, on sample texts.

    Args:
        checkpoint: the model.
        pair: folder of `preprocess` and `encoder`.

    Raises:
        TfrecError: If token ids differ, or an output does by more than `_TOLERANCE` of its largest value.
    """
    import numpy as np
    import tensorflow as tf

    from tfrec.encoders.bert_reference import reference_ids, reference_outputs
    from tfrec.encoders.hub import load_module

    preprocessor, encoder = load_module(str(pair / "preprocess")), load_module(str(pair / "encoder"))
    length = min(_TOKENS, checkpoint.config.max_position_embeddings)
    packed = preprocessor.bert_pack_inputs([preprocessor.tokenize(tf.constant(_SAMPLES))], tf.constant(length))
    outputs = {name: encoder(packed)[name].numpy() for name in ("sequence_output", "pooled_output")}
    worst = 0.0
    for row, text in enumerate(_SAMPLES):
        ids = reference_ids(checkpoint, text, length)
        received = packed["input_word_ids"][row].numpy()[: packed["input_mask"][row].numpy().sum()].tolist()
        if received != ids:
            raise TfrecError(f"The converted tokenizer makes {received} of {text!r}, expected {ids}.")
        for name, expected in zip(outputs, reference_outputs(checkpoint, ids), strict=True):
            values = outputs[name][row][: len(ids)] if expected.ndim == 2 else outputs[name][row]
            difference = float(np.abs(values - expected).max())
            if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):  # nor may it be NaN
                raise TfrecError(f"The converted {name} of {text!r} differs from the model's by {difference:.2e}.")
            worst = max(worst, difference)
    return worst


def make_parser() -> jsonargparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = jsonargparse.ArgumentParser(
        prog="python -m tfrec.encoders.bert", description=f"{summary}\n{details}", exit_on_error=False
    )
    command = jsonargparse.ArgumentParser(exit_on_error=False)
    command.add_argument("--from", type=Path, required=True, help="folder of the model")
    command.add_argument("--to", type=Path, required=True, help="folder of the pair; must not exist")
    parser.add_subcommands().add_subcommand("import", command, help="make a TF Hub pair")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))["import"]
        difference = import_pair(options["from"], options["to"])
    except (TfrecError, jsonargparse.ArgumentError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{options['to']}: preprocess and encoder written; max abs difference to NumPy {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
