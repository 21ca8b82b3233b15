#!/usr/bin/env python3
"""Answers of `squint bench --questions --answers` against those of transformers, setting by
setting; what differs is listed with the gap of squint's two best logits at its closest decision.

    reference.py answers.jsonl reference.json
"""
import json
import sys
from collections import defaultdict


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    reference = {r["name"]: r for r in json.load(open(sys.argv[2]))}
    same, asked = defaultdict(int), defaultdict(int)
    for line in open(sys.argv[1]):
        a = json.loads(line)
        name, index = a["question_id"].split("/")
        meta = a["metadata"]
        setting = meta["method"] + ("" if meta["keep"] == "all" else meta["keep"])
        if setting not in reference[name]:
            continue
        theirs = reference[name][setting][int(index)]
        asked[setting] += 1
        if a["text"].strip() == theirs.strip():
            same[setting] += 1
        else:
            print(f"{setting:13} {a['question_id']:14} gap {meta['min_gap']:.5f}\n"
                  f"    squint        {a['text']}\n    transformers  {theirs}")
    for setting, n in asked.items():
        print(f"{setting:13} {same[setting]} of {n} equal ({100 * same[setting] / n:.2f} %)")
    total = sum(asked.values())
    print(f"all           {sum(same.values())} of {total} equal "
          f"({100 * sum(same.values()) / total:.2f} %)")


if __name__ == "__main__":
    main()
