"""Calls to a model server: what is asked and answered, and how it travels.

Works with TensorFlow Serving and with the embedded server alike, and needs no TensorFlow. Imports run one way: `wire`, `calls`,
`errors` <- `rest`, `grpc_transport` <- `aio` <- `serving.client` <- `command`; `media` is loaded when a video is embedded.
"""
