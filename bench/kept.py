#!/usr/bin/env python3
"""Two files of `squint bench --questions --answers` against each other: are the same tokens kept,
and are the answers the same? For one model on two backends or in two types.

    kept.py a.jsonl b.jsonl [--most N]

Each picture and setting that keeps other tokens is listed with the tokens that only one file has.
With --most it exits with 1 when some picture differs in more than N tokens, or when the files do
not hold the same questions.
"""
import argparse
import sys

from reference import read_answers


def kept_of(line):
    """Empty where nothing is dropped."""
    meta = line["metadata"]
    if meta["keep"] != "all" and "kept" not in meta:
        sys.exit(f"kept.py: {line['question_id']}: no kept tokens, written by an old squint?")
    return set(meta.get("kept", ()))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--most", type=int, metavar="N", help="tokens that may differ a picture")
    args = parser.parse_args()
    a, b = read_answers(args.a), read_answers(args.b)
    keys = {(s, q) for s in a for q in a[s]} ^ {(s, q) for s in b for q in b[s]}
    failed = bool(keys) or not a
    if keys:
        print(f"{len(keys)} answers are in one file only, such as {' '.join(sorted(keys)[0])}")
    for setting in a:
        both = [q for q in a[setting] if q in b.get(setting, {})]
        texts = sum(a[setting][q]["text"].strip() == b[setting][q]["text"].strip() for q in both)
        seen, other, worst = set(), 0, 0
        for q in both:
            picture = q.split("/")[0]
            if picture in seen:
                continue
            seen.add(picture)
            sets = [kept_of(f[setting][q]) for f in (a, b)]
            only = [sorted(sets[0] - sets[1]), sorted(sets[1] - sets[0])]
            n = max(len(only[0]), len(only[1]))
            if n:
                other, worst = other + 1, max(worst, n)
                print(f"{setting:13} {picture:14} {only[0]} | {only[1]}")
        print(f"{setting:13} {texts} of {len(both)} answers equal; {len(seen) - other} of "
              f"{len(seen)} pictures keep the same tokens, at most {worst} differ")
        failed |= args.most is not None and worst > args.most
    sys.exit(1 if failed and args.most is not None else 0)


if __name__ == "__main__":
    main()
