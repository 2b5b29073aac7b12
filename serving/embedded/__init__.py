"""The embedded model server: the REST and gRPC interface of TensorFlow Serving over TensorFlow's Python package.

Words: a *model* has a name and a base path; a *version* is a numbered folder below it; a *servable* is a loaded version; an
*aspired* version is one that the version policy wants loaded. Imports run one way: `errors`, `flags` and the codecs
(`rapid_json`, `json_input`, `json_output`, `tensor_codec`) <- `saved_model`, `batching` <- `inference`, `warmup` <-
`manager` <- `core` <- `grpc_api`, `rest_api` <- `lifecycle`.
"""
