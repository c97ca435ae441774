"""How far the converted model's predictions are from the original's: KL(original || converted), in nats per token."""

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from alibi_cli.calibration.windows import CalibrationWindows
from alibi_cli.errors import UsageError
from alibi_cli.models.body_and_head import LOGITS_PER_CHUNK, BodyAndHead

TOKENS_PER_BATCH = 2048


class Divergence:
    """Compares two models over one vocabulary. The heads run in chunks: no (L, V) tensor exists, and no gradient reaches the original.

    context: of longer windows the original is fed its last so many tokens (the truncated teacher); it must see all compared ones.
    """

    def __init__(
        self,
        original: PreTrainedModel,
        converted: PreTrainedModel,
        logits_per_chunk: int = LOGITS_PER_CHUNK,
        context: int | None = None,
    ):
        self.context = context
        self.original, self.converted = BodyAndHead(original), BodyAndHead(converted)
        self.device = original.device
        # The original's hidden states of windows that are looked at again and again, which are kept so that their ids are not reused.
        self._seen: dict[int, tuple[CalibrationWindows, list[torch.Tensor]]] = {}
        self.chunk = max(1, logits_per_chunk // original.config.get_text_config().vocab_size)

    def _wanted(self, input_ids: torch.Tensor, compared: torch.Tensor) -> torch.Tensor:
        """(n, d) hidden states of the original at the compared tokens"""
        seen = slice(None if self.context is None else -self.context, None)
        with torch.no_grad():
            return self.original.hidden(input_ids[:, seen])[compared[:, seen]]

    def backward(self, input_ids: torch.Tensor, compared: torch.Tensor) -> float:
        """The mean KL over the compared tokens of (B, L) windows, 0 if there are none; adds its gradient to what the converted model
        learns."""
        if not compared.any():  # of a short window, no token may be masked
            return 0.0
        wanted = self._wanted(input_ids, compared)
        hidden = self.converted.hidden(input_ids)[compared]
        # The head's graph lives for one chunk only: its gradient is collected at the body's output.
        leaf = hidden.detach().requires_grad_()
        total = 0.0
        for theirs, ours in zip(wanted.split(self.chunk), leaf.split(self.chunk), strict=True):
            loss = self._kl(theirs, ours)
            (loss / len(leaf)).backward()
            total += loss.item()
        hidden.backward(leaf.grad)
        return total / len(leaf)

    @torch.no_grad()
    def mean(self, windows: CalibrationWindows) -> float:
        """The mean KL over all compared tokens of the windows.

        Raises:
            AlibiError: there are none.
        """
        if not windows.compared.any():
            raise UsageError(
                f"None of {windows.n_tokens} tokens that are to be compared is masked.",
                hint="Give more text.",
            )
        size = max(1, TOKENS_PER_BATCH // windows.input_ids.shape[1])
        batches = [windows.batch(slice(i, i + size), self.device) for i in range(0, len(windows.input_ids), size)]
        if id(windows) not in self._seen:
            self._seen[id(windows)] = windows, [self._wanted(*batch) for batch in batches]
        total, count = 0.0, 0
        for (input_ids, compared), wanted in zip(batches, self._seen[id(windows)][1], strict=True):
            hidden = self.converted.hidden(input_ids)[compared]
            pairs = zip(wanted.split(self.chunk), hidden.split(self.chunk), strict=True)
            total += sum(self._kl(theirs, ours).item() for theirs, ours in pairs)
            count += len(hidden)
        return total / count

    def _kl(self, theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
        """(n, d), (n, d) hidden states -> sum over tokens, in float32 or better."""
        exact = torch.promote_types(ours.dtype, torch.float32)
        with torch.no_grad():
            wanted = log_softmax(self.original.logits(theirs).to(exact), dim=-1)
        return kl_div(
            log_softmax(self.converted.logits(ours).to(exact), dim=-1), wanted, reduction="sum", log_target=True
        )
