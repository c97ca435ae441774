"""FlexAttention's blocks, and the choice of a backend. Parity is tested with all backends; the compiled kernel is in the benchmarks."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from alibi_cli.attention.auto import choose
from alibi_cli.attention.flex import causal_blocks


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (128, 128), (300, 300), (5, 700), (129, 513)])
def test_blocks_from_the_lengths_are_those_of_the_whole_mask(queries: int, keys: int) -> None:
    ours = causal_blocks(queries, keys, torch.device("cpu"))
    theirs = create_block_mask(lambda b, h, i, j: i + keys - queries >= j, None, None, queries, keys, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    full = ours.full_kv_num_blocks[0, 0].tolist()  # blocks of 128 keys that the first query of each block sees in full
    assert full == [(keys - queries + first + 1) // 128 for first in range(0, queries, 128)]
    assert ours.kv_indices[0, 0, :, 0].tolist() == [n % -(-keys // 128) for n in full]  # the block with the diagonal
    assert causal_blocks(queries, keys, torch.device("cpu")) is ours


def test_the_choice_and_its_reason() -> None:
    for arguments, name, why in (
        (("cpu", torch.float32, 4096, 64, False), "blocked", "too far away"),
        (("cuda", torch.bfloat16, 1, 64, True), "sdpa", "cache"),
        (("cuda", torch.bfloat16, 4096, 64, True), "flex", "compiled"),
        (("cuda", torch.float64, 4096, 64, True), "blocked", "float64"),
        (("cuda", torch.float16, 4096, 8, True), "blocked", "heads of 8"),
        (("cuda", torch.bfloat16, 4096, 64, False), "blocked", "no compiler"),
        (("mps", torch.float32, 4096, 64, False), "blocked", "no compiler for mps"),
    ):
        chosen, reason = choose(*arguments)
        assert chosen == name and why in reason, arguments
