#!/usr/bin/env python3
"""Next-token probabilities after transformers' warpers: writes sampler_golden.json.

    python3 sampler_reference.py -o sampler_golden.json

Each case holds logits, temperature, top_k, top_p and the probability of every id. Order as in
transformers: temperature, top-k, top-p. Logits are distinct in the top-p cases: which of several
equal ids torch.sort leaves on the kept side is not defined (squint keeps the lower ones).
"""
import argparse
import json

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


def probabilities(logits, temperature, top_k, top_p):
    warpers = [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    x = torch.tensor([logits], dtype=torch.float32)
    for w in warpers:
        x = w(None, x)
    return [round(p, 7) for p in x.double().softmax(-1)[0].tolist()]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-o", "--out", default="sampler_golden.json")
    a = p.parse_args()
    g = torch.Generator().manual_seed(3)
    settings = [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 5, 1.0), (0.7, 3, 1.0),
                (1.0, 0, 0.9), (1.0, 0, 0.5), (0.7, 0, 0.8), (1.5, 10, 0.9), (1.0, 4, 0.3),
                (1.0, 0, 0.01), (1.0, 1, 1.0), (1.0, 100, 0.95)]
    cases = []
    for temperature, top_k, top_p in settings:
        logits = [round(v, 4) for v in (torch.randn(20, generator=g) * 2).tolist()]
        assert len(set(logits)) == len(logits)
        cases.append((logits, temperature, top_k, top_p))
    cases.append(([1.0, 3.0, 3.0, 3.0, 0.0, 2.0, 2.0], 1.0, 2, 1.0))  # equals of the k-th stay
    cases.append(([1.0, 1.0, 1.0, 1.0], 1.0, 3, 1.0))
    out = [{"temperature": t, "top_k": k, "top_p": q, "logits": x,
            "probabilities": probabilities(x, t, k, q)} for x, t, k, q in cases]
    with open(a.out, "w", encoding="ascii", newline="\n") as f:
        f.write('{"made_by": "tests/golden/sampler_reference.py", "cases": [\n')
        f.write(",\n".join(json.dumps(c) for c in out) + "\n]}\n")


if __name__ == "__main__":
    main()
