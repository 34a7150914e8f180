"""Self-supervised learning on tensors: methods, the training loop, evaluation.

Nothing here opens a file, reads the environment or knows the time; see docs/architecture.md.
"""
