"""What verifying a checkpoint found."""

from pydantic import BaseModel


class Verification(BaseModel):
    """Logits of the checkpoint reloaded from disk against the surgery in memory, both in float32.

    layers: null if all took part. Otherwise the model is large, every copied tensor was compared with the source byte by byte, and the
    difference is that of the hidden states above these layers alone, in the model's own type.
    """

    max_abs_logit_difference: float
    tolerance: float
    tokens: int
    layers: list[int] | None = None
    passed: bool
