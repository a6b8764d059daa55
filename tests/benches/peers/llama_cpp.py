"""llama.cpp's part of `benches/quantised.rs`: through its libraries as `llama-cpp-python` builds them.

    llama_cpp.py make OUT.gguf LAYERS [q4_0] a file of the geometry of Vicuna-7B, of random blocks in the mix Q4_K_M or in Q4_0
    llama_cpp.py measure MODEL.gguf [PART] a line `WORK TOKENS SECONDS PROCESSOR` for each pass, then `peak BYTES`
    llama_cpp.py plain MODEL.gguf [PART]   the same without weights in layouts for AMX and wide registers

PART is speed, quick (of prompts only the shorter, of batches not the largest) or memory; all of it unless given.
"""

import os
import resource
import sys
import time

HIDDEN, INNER, VOCABULARY, HEADS = 4096, 11008, 32000, 32
PREFIX, STEPS, FULL = 160, 8, 512


def make(out, layers, mix):
    import gguf
    import numpy as np

    draw = np.random.default_rng(7)
    # Values and bytes of a block, where its scales lie, and how large they are.
    types = {
        "Q4_K": (gguf.GGMLQuantizationType.Q4_K, 256, 144, [0, 2], 3e-5),
        "Q6_K": (gguf.GGMLQuantizationType.Q6_K, 256, 210, [208], 2e-5),
        "Q4_0": (gguf.GGMLQuantizationType.Q4_0, 32, 18, [0], 3e-3),
    }
    most, some = {"q4_k_m": ("Q4_K", "Q6_K"), "q4_0": ("Q4_0", "Q4_0")}[mix]

    def blocks(kind, rows, columns):
        dtype, values, size, scales, scale = types[kind]
        data = draw.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
        for at in scales:
            data[:, :, at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
        return data.reshape(rows, -1), dtype

    # Whole or not there at all.
    part = out + ".part"
    file = gguf.GGUFWriter(part, "llama", use_temp_file=False)
    file.add_name("random-7b")
    file.add_context_length(2048)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(layers)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_dimension_count(HIDDEN // HEADS)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(VOCABULARY)
    file.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q4_0 if mix == "q4_0" else gguf.LlamaFileType.MOSTLY_Q4_K_M
    )
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    while len(tokens) < VOCABULARY:
        tokens.append(f"\u2581t{len(tokens)}")
        kinds.append(gguf.TokenType.NORMAL)
    file.add_tokenizer_model("llama")
    file.add_token_list(tokens)
    file.add_token_scores([-float(place) for place in range(VOCABULARY)])
    file.add_token_types([int(kind) for kind in kinds])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    one = np.ones(HIDDEN, dtype=np.float32)

    def add(name, kind, rows, columns):
        data, dtype = blocks(kind, rows, columns)
        file.add_tensor(name, data, raw_dtype=dtype)

    add("token_embd.weight", most, VOCABULARY, HIDDEN)
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN, HIDDEN),
        "attn_v": (HIDDEN, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    eighth = layers // 8
    for layer in range(layers):
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        for name, (rows, columns) in shapes.items():
            kind = some if more and name in ("attn_v", "ffn_down") else most
            add(f"blk.{layer}.{name}.weight", kind, rows, columns)
        file.add_tensor(f"blk.{layer}.attn_norm.weight", one)
        file.add_tensor(f"blk.{layer}.ffn_norm.weight", one)
    file.add_tensor("output_norm.weight", one)
    add("output.weight", "Q6_K", VOCABULARY, HIDDEN)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    os.replace(part, out)


def measure(path, extra, part):
    import llama_cpp as lib

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = extra
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    params = lib.llama_context_default_params()
    # As many positions as what follows takes.
    speed, full = 32 * (PREFIX + STEPS + 8), 8 * FULL
    params.n_ctx = {"memory": full, "all": max(speed, full)}.get(part, speed)
    params.n_batch, params.n_ubatch = 512, 512
    # As many as ours.
    params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
    params.n_seq_max = 32
    # One cache for all sequences, so that a prefix is shared, as in the program that is measured.
    params.kv_unified = True
    context = lib.llama_init_from_model(model, params)
    memory = lib.llama_get_memory(context)
    print(f"# llama-cpp-python {lib.__version__}: {lib.llama_print_system_info().decode()}")

    def run(tokens):
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for at, (position, sequence, wanted) in enumerate(tokens):
            batch.token[at] = 5 + at * 37 % 900
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = wanted
        started, before = time.perf_counter(), time.process_time()
        code = lib.llama_decode(context, batch)
        lib.llama_synchronize(context)
        seconds, processor = time.perf_counter() - started, time.process_time() - before
        lib.llama_batch_free(batch)
        assert code == 0, code
        return f"{seconds} {processor}"

    def prefill(count, sequence=0, first=0):
        return run([(first + at, sequence, at == count - 1) for at in range(count)])

    if part != "memory":
        prefill(128)
        measure_speed(lib, memory, run, prefill, part == "quick")
    if part in ("memory", "all"):
        lib.llama_memory_clear(memory, True)
        for sequence in range(8):
            prefill(FULL, sequence)
        print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")


def measure_speed(lib, memory, run, prefill, quick):
    for count in (128,) if quick else (128, 512):
        for _ in range(3):
            lib.llama_memory_clear(memory, True)
            print(f"prefill-{count} {count} {prefill(count)}", flush=True)
    for batch in (1, 8, 16) if quick else (1, 8, 16, 32):
        lib.llama_memory_clear(memory, True)
        prefill(PREFIX)
        for sequence in range(1, batch):
            lib.llama_memory_seq_cp(memory, 0, sequence, 0, PREFIX)
        for step in range(STEPS + 1):
            seconds = run([(PREFIX + step, sequence, True) for sequence in range(batch)])
            if step > 0:
                print(f"decode-{batch} {batch} {seconds}", flush=True)


if sys.argv[1] == "make":
    make(sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "q4_k_m")
else:
    part = sys.argv[3] if len(sys.argv) > 3 else "all"
    measure(sys.argv[2], sys.argv[1] == "measure", part)
