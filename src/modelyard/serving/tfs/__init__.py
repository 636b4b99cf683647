"""TF Serving's protocol, over REST and gRPC (https://www.tensorflow.org/tfx/serving)."""
