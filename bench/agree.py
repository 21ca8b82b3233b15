#!/usr/bin/env python3
"""The demo model in squint and in llama.cpp on the same questions: how many answers are equal.

Both run the shipped GGUF pair greedily on one view of each picture. Where they differ, both
answers are printed with the smallest gap of the two best logits in squint's answer: a gap near
zero means that rounding decided.
"""
import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from peers import LlamaCpp


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squint", default="build/squint")
    parser.add_argument("--demo", type=Path, default=Path("models/demo"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compute", default="f32")
    args = parser.parse_args()
    folder = args.demo / "eval"
    lines = [json.loads(line) for line in (folder / "questions.jsonl").open()]
    step = max(1, len(lines) // args.count)
    lines = lines[::step][:args.count]
    with tempfile.TemporaryDirectory() as tmp:
        asked, answers = Path(tmp, "questions.jsonl"), Path(tmp, "answers.jsonl")
        asked.write_text("".join(json.dumps(q) + "\n" for q in lines))
        subprocess.run([args.squint, "bench", "-m", args.demo, "--questions", asked, "--images",
                        folder, "--answers", answers, "--compute", args.compute, "--threads",
                        str(args.threads)], check=True)
        ours = {a["question_id"]: a for a in map(json.loads, answers.open())}
    text = [p for p in args.demo.glob("*.gguf") if not p.name.startswith("mmproj")][0]
    mmproj = next(args.demo.glob("mmproj*.gguf"))
    peer = LlamaCpp(text, mmproj, args.threads)
    same = 0
    for q in lines:
        theirs = peer.ask(folder / q["image"], q["text"])
        mine = ours[q["question_id"]]
        if mine["text"].strip() == theirs:
            same += 1
            continue
        print(f"{q['question_id']}: {q['text'].splitlines()[0]}\n  squint     {mine['text']}\n"
              f"  llama.cpp  {theirs}\n  gap        {mine['metadata']['min_gap']}")
    print(f"{same} of {len(lines)} answers are equal")


if __name__ == "__main__":
    main()
