"""Converted checkpoints in vLLM: `vllm serve DIR`, without remote code. vLLM loads `register` by its entry point `vllm.general_plugins`.

Two routes lead to vLLM's kernels. A family that vLLM has a model of its own for is built by that model (native.py); the others by vLLM's
Transformers backend around transformers' own model (transformers_backend.py). On both, the positions change as the checkpoint's policy
says, and every `Attention` is given the bias of its layer (layers.py).
"""


def register() -> None:
    """Tells vLLM the configs, the models and the attention of converted checkpoints. May be called more than once in a process."""
    from vllm import ModelRegistry
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    import alibi_cli.models.auto_classes  # noqa: F401 - with the package, which has registered the configs
    from alibi_cli.serving.layers import OWN
    from alibi_cli.serving.routes import architectures

    for name, route in architectures().items():
        ModelRegistry.register_model(name, f"alibi_cli.serving.{route}:{name}")
    if OWN not in AttentionBackendEnum.__members__:
        register_backend(OWN, "alibi_cli.serving.own_attention.AlibiBackend")
