"""The source files that travel inside every converted checkpoint, byte for byte.

They need torch and transformers alone and import each other relatively, so the same text runs here as `alibi_cli.runtime.*` and,
loaded by transformers' `trust_remote_code`, out of a checkpoint folder. See docs/decisions/001-runtime-files.md.
"""

from pathlib import Path

RUNTIME_FILES = (
    "alibi_slopes.py",
    "alibi_distances.py",
    "alibi_decoding.py",
    "alibi_attention.py",
    "alibi_blocks.py",
    "alibi_scores.py",
    "alibi_parts.py",
    "alibi_sinks.py",
    "alibi_reach.py",
    "alibi_registry.py",
    "alibi_surgery.py",
    "alibi_positions.py",
    "alibi_modules.py",
    "alibi_policies.py",
    "alibi_rewrite.py",
    "modeling_alibi.py",
    "alibi_plugin.py",
)


def runtime_sources() -> dict[str, bytes]:
    """File name -> content, exactly as it is written into a checkpoint."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in RUNTIME_FILES}
