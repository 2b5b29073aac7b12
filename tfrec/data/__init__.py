"""From a dataset folder to columnar arrays and `tf.data` batches."""
