"""The Open Inference Protocol with Triton's extensions, over REST and gRPC."""
