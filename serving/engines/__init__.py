"""What executes models: the engine protocol, emulated and ONNX engines, devices, adapters, and the model repository."""
