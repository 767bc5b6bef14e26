"""RLDS datasets, as TensorFlow Datasets writes them to disk, read without TensorFlow."""
