"""Searches a saved index in a process of its own: `search_saved.py FOLDER QUERIES.npy K`; prints what it found as JSON."""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

folder, queries, k = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
graph = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
functions = graph.library.function
ops = {node.op for node in graph.node} | {node.op for function in functions for node in function.node_def}
ops -= {function.signature.name for function in functions}
foreign = sorted(op for op in ops if op_def_registry.get(op) is None)
if foreign:
    import scann  # noqa: F401  (registers its op)
index = tf.saved_model.load(folder)
scores, rows = index.search_graph(tf.constant(queries), tf.constant(k))
libraries = sorted({name.split(".")[0] for name in sys.modules} & {"tfrec", "tensorflow_recommenders", "scann"})
answer = {"scores": scores.numpy().tolist(), "rows": rows.numpy().tolist(), "foreign": foreign, "libraries": libraries}
print(json.dumps(answer))
