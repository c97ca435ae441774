"""python -m alibi_cli.engines.llama_cpp_process: a llama.cpp server in a process of its own, until its standard input ends.

llama.cpp ends the process where an assertion fails, which must not be ours. The argument is a JSON object; the answer is one line with
the address, on 127.0.0.1.
"""

import json
import sys

import xllamacpp


def main() -> None:
    wanted = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = wanted["file"]
    params.n_ctx, params.n_parallel = wanted["context"], 1
    params.n_batch = params.n_ubatch = min(512, wanted["context"])
    params.n_gpu_layers = 0 if wanted["exact"] else params.n_gpu_layers
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = wanted["threads"]
    params.warmup = False
    params.verbosity = 1  # errors
    if wanted["exact"]:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
