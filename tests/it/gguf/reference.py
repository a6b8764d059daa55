"""What llama.cpp makes of texts and prompts: `reference.py MODEL INPUT OUTPUT`, both JSON.

INPUT has `texts` (to token ids), `prompts` (written, special tokens and all) and `tokens` (of an answer, at most). The cache is
f32, as RaDialog's on a CPU. Each answer is computed twice: token by token, and again with prompt and answer in one batch.
What the two differ by is rounding, since the sums are the same in another order.
"""

import json
import os
import sys

import llama_cpp
import numpy as np

# Its threads wait for each other in loops: more of them than free cores are slower than one.
THREADS = max(1, (os.cpu_count() or 1) // 2)

model, source, target = sys.argv[1:]
with open(source) as file:
    asked = json.load(file)
llama = llama_cpp.Llama(
    model_path=model, n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=THREADS, n_threads_batch=THREADS,
    type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False, logits_all=True, verbose=False,
)


def ids(text, special):
    return llama.tokenize(text.encode(), add_bos=False, special=special)


def best_two(logits):
    order = np.argpartition(-logits, 2)[:2]
    first, second = sorted(order, key=lambda index: -logits[index])
    return int(first), int(second)


answers = []
for prompt in asked["prompts"]:
    prompt = ids(prompt, True)
    llama.reset()
    llama.eval(prompt)
    answer, steps = [], []
    while len(answer) < asked["tokens"]:
        logits = np.array(llama.scores[llama.n_tokens - 1])
        first, second = best_two(logits)
        steps.append({"first": first, "second": second, "margin": float(logits[first] - logits[second])})
        answer.append(first)
        if first == llama.token_eos():
            break
        llama.eval([first])
    llama.reset()
    llama.eval(prompt + answer[:-1])
    for index, step in enumerate(steps):
        logits = llama.scores[len(prompt) + index - 1]
        step["again"] = float(logits[step["first"]] - logits[step["second"]])
    answers.append({"prompt": prompt, "answer": answer, "steps": steps})

with open(target, "w") as file:
    json.dump({"version": llama_cpp.__version__, "texts": [ids(text, False) for text in asked["texts"]],
               "answers": answers}, file)
