"""The prediction server: TensorFlow Serving's REST and gRPC interfaces over SavedModels on disk."""
