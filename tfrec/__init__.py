"""tfrec: a production recommender for video on TensorFlow and Keras 2.

TensorFlow Recommenders needs Keras 2, which TensorFlow loads as `tf.keras` when `TF_USE_LEGACY_KERAS=1`
stands in the environment before its first import. Importing `tfrec` sets it and does nothing else.
"""

import os
import sys

__version__ = "0.1.0"

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") not in {"1", "true", "True"}:
    raise ImportError(
        "`tfrec` needs Keras 2, but TensorFlow was imported first and has chosen Keras 3. "
        "Import `tfrec` before `tensorflow`, or set TF_USE_LEGACY_KERAS=1 in the environment."
    )
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# TensorFlow 2.16 reports CUDA plugins that register twice as errors, on machines without a GPU too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
