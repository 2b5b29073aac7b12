"""The converter of Hugging Face folders, from the outside and piece by piece."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
from safetensors.numpy import load_file, save_file

from tfrec.config import TextConfig
from tfrec.encoders.bert import import_pair, main, max_difference
from tfrec.encoders.hugging_face import BertCheckpoint
from tfrec.encoders.text import TextEncoder
from tfrec.encoders.wordpiece import WordPiecePreprocessor
from tfrec.errors import TfrecError
from tfrec.export.ops import foreign, graph_ops

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "##a",
    "the",
    "cat",
    "elan",
    "Élan",
    "!",
    "猫",
    "x",
]
UNKNOWN, UN, AFF, ABLE, A, THE, CAT, ELAN, ELAN_CASED, MARK, CHINESE, X = 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14


@cache
def preprocessor_of(lower_case: bool) -> WordPiecePreprocessor:
    return WordPiecePreprocessor(PIECES, lower_case, strip_accents=lower_case)


def tokens(text: str, lower_case: bool = True) -> list[list[int]]:
    return preprocessor_of(lower_case).tokenize(tf.constant([text]))[0].to_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", [[UN, AFF, ABLE]]),
        ("The  CAT!", [[THE], [CAT], [MARK]]),
        ("unaffa", [[UN, AFF, A]]),
        ("unaffb cat", [[UNKNOWN], [CAT]]),  # one piece missing, and all of the word is unknown
        ("Élan e\u0301lan", [[ELAN], [ELAN]]),
        ("the猫cat", [[THE], [CHINESE], [CAT]]),
        ("c\u200bat\x00 \ufffdcat\u2028cat", [[CAT], [CAT], [CAT]]),
        ("x" * 101 + " x", [[UNKNOWN], [X]]),
        ("", []),
        (" \t\n", []),
    ],
)
def test_words_are_cut_greedily(text, expected):
    assert tokens(text) == expected


def test_a_cased_model_keeps_case_and_accents():
    assert tokens("Élan elan The", lower_case=False) == [[ELAN_CASED], [ELAN], [UNKNOWN]]


def test_packing_cuts_and_pads():
    preprocessor = preprocessor_of(True)
    packed = preprocessor.bert_pack_inputs([preprocessor.tokenize(tf.constant(["unaffable cat", "x"]))], 5)
    np.testing.assert_array_equal(packed["input_word_ids"], [[2, UN, AFF, ABLE, 3], [2, X, 3, 0, 0]])
    np.testing.assert_array_equal(packed["input_mask"], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert preprocessor(tf.constant(["x"]))["input_type_ids"].shape == [1, 128]


@pytest.fixture(scope="module")
def pair(write_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    import_pair(write_bert(folder / "model"), folder / "pair")
    return folder / "pair"


@pytest.mark.parametrize(
    "options", [{"hidden_act": "gelu_new", "pooler": False}, {"prefix": "bert.", "hidden_act": "relu"}]
)
def test_makes_a_pair_that_agrees_with_numpy(write_bert, tmp_path, options):
    difference = import_pair(write_bert(tmp_path / "model", **options), tmp_path / "pair")
    assert 0 < difference < 1e-4
    handles = [str(tmp_path / "pair" / part) for part in ("preprocess", "encoder")]
    assert TextEncoder(*handles, TextConfig(*handles)).encode(["the cat", "猫"]).shape == (2, 16)
    assert not foreign(graph_ops(tmp_path / "pair" / "preprocess") | graph_ops(tmp_path / "pair" / "encoder"))


def test_outputs_follow_the_convention_and_can_be_fine_tuned(pair):
    preprocess = hub.KerasLayer(str(pair / "preprocess"))
    encoder = hub.KerasLayer(str(pair / "encoder"), trainable=True)
    outputs = encoder({name: ids[:, :16] for name, ids in preprocess(tf.constant(["the cat!"])).items()})
    assert outputs["sequence_output"].shape == (1, 16, 16)
    assert [states.shape for states in outputs["encoder_outputs"]] == [(1, 16, 16)] * 2
    assert outputs["pooled_output"].shape == (1, 16)
    names = [variable.name for variable in encoder.trainable_variables]
    assert len(names) == 5 + 2 * 16 + 2
    assert "encoder/layer_1/attention/query/kernel:0" in names


def test_sentence_transformers_folders_say_how_to_pool(write_bert, tmp_path):
    folder = write_bert(tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 16}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    checkpoint = BertCheckpoint.read(folder)
    assert (checkpoint.pooling, checkpoint.normalize) == ("cls", True)
    import_pair(folder, tmp_path / "pair")
    outputs = hub.load(str(tmp_path / "pair" / "encoder"))(
        {name: tf.constant([[2, 9, 3]]) * (name == "input_word_ids") + (name == "input_mask") for name in
         ("input_word_ids", "input_mask", "input_type_ids")}
    )  # fmt: skip
    first = outputs["sequence_output"][0, 0]
    np.testing.assert_allclose(outputs["pooled_output"][0], first / np.linalg.norm(first), rtol=1e-5)


def test_half_precision_weights_are_read(write_bert, tmp_path):
    folder = write_bert(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    bfloat16 = tf.bfloat16.as_numpy_dtype
    halves = {name: value.astype(bfloat16 if "query" in name else np.float16) for name, value in weights.items()}
    save_file(halves, folder / "model.safetensors")
    read = BertCheckpoint.read(folder).weights
    assert {value.dtype for value in read.values()} == {np.dtype(np.float32)}
    name = "encoder.layer.0.attention.self.query.weight"
    np.testing.assert_allclose(read[name], weights[name], rtol=1e-2)


def test_a_pair_that_disagrees_is_refused(write_bert, pair, tmp_path):
    other = write_bert(tmp_path / "model", hidden_act="relu")
    with pytest.raises(TfrecError, match="The converted sequence_output of 'A cat plays"):
        max_difference(BertCheckpoint.read(other), pair)
    (other / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]))
    with pytest.raises(TfrecError, match="The converted tokenizer makes"):
        max_difference(BertCheckpoint.read(other), pair)


def spoil_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"] = np.zeros((16, 25), np.float32)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "vocab.txt").unlink(), "lacks vocab.txt. Expected the folder of a BERT model"),
        (
            spoil_shape,
            r"`encoder.layer.1.output.dense.weight` is of shape \(16, 25\), but config.json makes it \(16, 24\)",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: (folder / "vocab.txt").write_text("a\nb"), r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        (lambda folder: (folder / "vocab.txt").write_text("a\na"), "holds a token twice"),
        (lambda folder: (folder / "vocab.txt").write_text("\n".join(map(str, range(41)))), "41 tokens, .* room for 40"),
    ],
)
def test_what_cannot_be_converted_is_named(write_bert, tmp_path, spoil, message):
    folder = write_bert(tmp_path / "model")
    spoil(folder)
    with pytest.raises(TfrecError, match=message):
        import_pair(folder, tmp_path / "pair")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "roberta"}, "`model_type` 'roberta' is not supported. Expected: 'bert'"),
        ({"hidden_act": "mish"}, "`hidden_act` 'mish' is not supported"),
        ({"position_embedding_type": "relative_key"}, "`position_embedding_type` 'relative_key'"),
    ],
)
def test_other_architectures_are_refused(write_bert, tmp_path, values, message):
    with pytest.raises(TfrecError, match=message):
        import_pair(write_bert(tmp_path / "model", **values), tmp_path / "pair")


def test_command_line(write_bert, tmp_path, capsys):
    arguments = ["import", "--from", str(write_bert(tmp_path / "model")), "--to", str(tmp_path / "pair")]
    assert main(arguments) == 0
    assert "max abs difference to NumPy" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["import", "--from", "nowhere", "--to", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere lacks config.json, model.safetensors, vocab.txt.")
    assert main(["import"]) == 2


def test_help_imports_no_tensorflow():
    code = (
        "import sys, runpy; sys.argv = ['bert', '--help']; runpy.run_module('tfrec.encoders.bert', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    assert "import" in done.stdout
    assert "tensorflow" not in done.stderr


def test_a_pretrained_model_survives_the_way_there_and_back(shared, tmp_path):
    """Real MiniLM: variables -> safetensors -> TF Hub pair -> the reference ids and embeddings of the original."""
    original = shared / "hub" / "minilm_en_uncased_L-6_H-384_A-12"
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "vocab.txt").write_bytes((original / "assets" / "vocab.txt").read_bytes())
    variables = {variable.name: variable.numpy() for variable in hub.load(str(original)).variables}
    save_file({_hugging_face_name(name): _as_linear(name, value) for name, value in variables.items()},
              folder / "model.safetensors")  # fmt: skip
    sizes = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
             "intermediate_size": 1536, "max_position_embeddings": 512}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Normalize"}]))
    assert import_pair(folder, tmp_path / "pair") < 1e-4
    golden = np.load(shared / "hub" / "build" / "golden_text.npz")
    strings, sentences = (json.loads(golden[name].tobytes()) for name in ("strings_json", "sentences_json"))
    handles = [str(tmp_path / "pair" / part) for part in ("preprocess", "encoder")]
    ids = hub.load(handles[0])(tf.constant(strings))["input_word_ids"]
    np.testing.assert_array_equal(ids, golden["single_128"])
    vectors = TextEncoder(*handles, TextConfig(*handles, max_tokens=128)).encode(sentences)
    np.testing.assert_allclose(vectors, golden["embedding"], atol=1e-4)


def _hugging_face_name(name: str) -> str:
    """`encoder/layer_0/attention/query/kernel:0` as `encoder.layer.0.attention.self.query.weight`."""
    name = name.split(":")[0].replace("layer_norm", "LayerNorm").replace("output_LayerNorm", "output/LayerNorm")
    name = name.replace("layer_", "layer.").replace("/", ".")
    for part in ("query", "key", "value"):
        name = name.replace(f"attention.{part}", f"attention.self.{part}")
    name = name.replace("output.kernel", "output.dense.kernel").replace("output.bias", "output.dense.bias")
    name = name.replace("intermediate.", "intermediate.dense.").replace("kernel", "weight")
    name = f"{name}.weight" if name.endswith("_embeddings") else name
    return name.replace("gamma", "weight").replace("beta", "bias")


def _as_linear(name: str, value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.T) if "kernel" in name else value
