#!/usr/bin/env python3
"""Answers of `squint bench --questions --answers` against those of transformers, setting by
setting; what differs is listed with the gap of squint's two best logits at its closest decision.

    reference.py answers.jsonl reference.json [--least PERCENT]

With --least it exits with 1 when a setting has a smaller share of equal answers, or fewer answers
than the reference has questions on these pictures.
"""
import argparse
import json
import sys


def read_answers(path):
    """{setting: {question_id: line}}; of a question asked twice the last answer counts."""
    out = {}
    for line in open(path):
        a = json.loads(line)
        meta = a["metadata"]
        setting = meta["method"] + ("" if meta["keep"] == "all" else meta["keep"])
        out.setdefault(setting, {})[a["question_id"]] = a
    return out


def read_reference(path, prefix):
    """{setting: {question_id: text}} of the pictures whose names begin with prefix."""
    out = {}
    for r in json.load(open(path)):
        if not r["name"].startswith(prefix):
            continue
        for setting, texts in r.items():
            if setting != "name":
                ids = {f"{r['name']}/{i}": text for i, text in enumerate(texts)}
                out.setdefault(setting, {}).update(ids)
    return out


def compare(setting, ours, theirs):
    """How many are equal and how many were asked; prints the others."""
    same = asked = 0
    for question, text in theirs.items():
        a = ours.get(question)
        if a is None:
            continue
        asked += 1
        if a["text"].strip() == text.strip():
            same += 1
        else:
            print(f"{setting:13} {question:14} gap {a['metadata']['min_gap']:.5f}\n"
                  f"    squint        {a['text']}\n    transformers  {text}")
    return same, asked


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers")
    parser.add_argument("reference")
    parser.add_argument("--least", type=float, metavar="PERCENT", help="equal answers a setting")
    parser.add_argument("--settings", help="such as none,fastervlm72; with --least all that the "
                        "reference has are needed, else those that were answered are shown")
    parser.add_argument("--pictures", default="single", metavar="PREFIX",
                        help="names that count (default: %(default)s)")
    args = parser.parse_args()
    ours = read_answers(args.answers)
    theirs = read_reference(args.reference, args.pictures)
    if args.settings:
        settings = args.settings.split(",")
    else:
        settings = [s for s in theirs if args.least is not None or s in ours]
    lines, total, total_same, failed = [], 0, 0, not settings
    for setting in settings:
        if setting not in theirs:
            sys.exit(f"reference.py: {args.reference} has no setting {setting}")
        same, asked = compare(setting, ours.get(setting, {}), theirs[setting])
        share, wanted = 100 * same / max(asked, 1), len(theirs[setting])
        line = f"{setting:13} {same} of {asked} equal ({share:.2f} %)"
        if args.least is not None and asked < wanted:
            line, failed = line + f": FEWER ANSWERS than the {wanted} questions", True
        elif args.least is not None and not share >= args.least:
            line, failed = line + f": BELOW {args.least:g} %", True
        lines.append(line)
        total, total_same = total + asked, total_same + same
    print("\n".join(lines))
    print(f"all           {total_same} of {total} equal ({100 * total_same / max(total, 1):.2f} %)")
    sys.exit(1 if failed and args.least is not None else 0)


if __name__ == "__main__":
    main()
