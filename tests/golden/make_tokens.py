#!/usr/bin/env python3
"""Token ids of random strings from `tokenizers` and `sentencepiece`: writes tokens/.

    SQ_SHARED=../../../shared python3 make_tokens.py

tokens/kinds.json    what random strings are made of; read here and by the test, not written
tokens/small_*       small tokenizers trained on such strings, for settings that are rare
tokens/golden.json   the sets: name, count, whether special tokens are matched
tokens/golden.bin    32 bits per set and string: a hash of the ids and of the decoded text

String i is made from splitmix64 seeded with i by the rule in `string`. Deterministic: the same
packages write the same bytes. --show SET I prints one string with its ids.
"""
import argparse
import base64
import io
import json
import os
import struct
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent / "tokens"
SHARED = Path(os.environ.get("SQ_SHARED", Path(__file__).resolve().parents[2] / "../shared"))
ASSETS = SHARED / "assets/tokenizers"
MASK = (1 << 64) - 1

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN2 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


# ---- strings ----

class Random:
    """splitmix64, as in src/core/rng.h"""

    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return z ^ z >> 31

    def below(self, n):
        reject = (1 << 64) % n
        while True:
            r = self.next()
            if r >= reject:
                return r % n


def string(i, kinds):
    random, out = Random(i), []
    for _ in range(1 + random.below(12)):
        kind = kinds[random.below(len(kinds))]
        for _ in range(1 + random.below(kind["max"])):
            if "texts" in kind:
                out.append(kind["texts"][random.below(len(kind["texts"]))])
                continue
            at = random.below(sum(hi - lo + 1 for lo, hi in kind["ranges"]))
            for lo, hi in kind["ranges"]:
                if at <= hi - lo:
                    out.append(chr(lo + at))
                    break
                at -= hi - lo + 1
    return "".join(out)


def fnv(data, h=1469598103934665603):
    for b in data:
        h = ((h ^ b) * 1099511628211) & MASK
    return h


# ---- small tokenizers ----

def latin(texts):
    """Only Latin (which rare characters a limit drops is not defined), no NUL (squint's JSON reader
    ends strings there) and nothing that looks like a byte piece."""
    return ["".join(c for c in t if "\0" < c < "\u0180") for t in texts if "<0x" not in t]


def train(tok, texts, specials):
    byte_level = isinstance(tok.decoder, decoders.ByteLevel)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    if not byte_level:
        texts = latin(texts)
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=900, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))


def with_pieces(tok, pieces):
    """The same tokenizer with pieces that no merge makes behind the others."""
    j = json.loads(tok.to_str())
    vocab = j["model"]["vocab"]
    for p in pieces:
        vocab.setdefault(p, len(vocab))
    return Tokenizer.from_str(json.dumps(j))


def odd_tokens(tok):
    """Added tokens with every flag."""
    tok.add_tokens([AddedToken("<left>", lstrip=True, normalized=False),
                    AddedToken("<right>", rstrip=True, normalized=False),
                    AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
                    AddedToken("word", single_word=True, normalized=False),
                    AddedToken("caf\u1ebf", normalized=True)])
    tok.add_special_tokens([AddedToken("<image>", normalized=False),
                            AddedToken("<mark>", lstrip=True, rstrip=True, normalized=False)])


def small_llama3(texts):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, texts, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
                       "<|end_header_id|>", "<|im_start|>", "<|im_end|>"])
    tok = with_pieces(tok, ["\u0120quick", "\u0120fox", "Hello", "1234", "quickly"])
    odd_tokens(tok)
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      special_tokens=[("<|begin_of_text|>", 0)])])
    return json.loads(tok.to_str())


def small_gpt2(texts):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    train(tok, texts, ["<|endoftext|>"])
    odd_tokens(tok)
    return json.loads(tok.to_str())


MARK_DECODERS = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                 decoders.Strip(" ", 1, 0)]


def small_metaspace(texts, split):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=split)
    tok.decoder = decoders.Sequence(MARK_DECODERS)
    train(tok, texts, ["<unk>", "<s>", "</s>"])
    tok = with_pieces(tok, [f"<0x{b:02X}>" for b in range(256)])
    odd_tokens(tok)
    return json.loads(tok.to_str())


def small_prepend(texts):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False, byte_fallback=False))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                           normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence([d for i, d in enumerate(MARK_DECODERS) if i != 1])
    train(tok, texts, ["<unk>", "<s>", "</s>"])
    odd_tokens(tok)
    tok.add_tokens([AddedToken("<old>", normalized=True)])
    return json.loads(tok.to_str())


def small_spm(texts, **options):
    model = io.BytesIO()
    lines = [t.replace("\n", " ") for t in latin(texts)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=900,
        normalization_rule_name="identity", character_coverage=1.0, num_threads=1,
        minloglevel=2, user_defined_symbols=["<image>", "word", "<both>"], **options)
    return model.getvalue()


# ---- shared tokenizers ----

def gpt2():
    from gguf import GGUFReader

    fields = GGUFReader(ASSETS / "gpt2/ggml-vocab-gpt-2.gguf").fields

    def strings(key):
        f = fields[key]
        return [bytes(f.parts[i]).decode("utf-8") for i in f.data]

    vocab = {t: i for i, t in enumerate(strings("tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in strings("tokenizer.ggml.merges")]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|endoftext|>"])
    return tok


def byte_alphabet():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def split_token(token, ranks):
    """The two pieces that make a token: its bytes joined by all lower ranks."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, 1 << 30) for a, b in zip(parts, parts[1:])]
        i = pairs.index(min(pairs))
        if pairs[i] >= ranks[token]:
            return None
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts if len(parts) == 2 else None


def qwen2():
    ranks = {}
    for line in (ASSETS / "qwen2/qwen.tiktoken").read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letter = byte_alphabet()
    text = {t: "".join(letter[b] for b in t) for t in ranks}
    pairs = [split_token(t, ranks) for t in ranks]
    tok = Tokenizer(models.BPE(vocab={text[t]: r for t, r in ranks.items()},
                               merges=[(text[a], text[b]) for a, b in filter(None, pairs)]))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tok


def runner(tok, special, bos=False, decoder=None):
    def run(text):
        tok.encode_special_tokens = not special
        ids = tok.encode(text, add_special_tokens=bos).ids
        return ids, (decoder or tok).decode(ids, skip_special_tokens=True)
    return run


def spm_runner(path):
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def run(text):
        ids = sp.encode(text)
        return ids, sp.decode([i for i in ids if i != sp.unk_id()])
    return run


def demo_runner():
    """Its file calls the byte pieces special, so that the package would decode them to nothing."""
    source = (SHARED / "demo/tokenizer.json").read_text(encoding="utf-8")
    j = json.loads(source)
    j["added_tokens"] = [a for a in j["added_tokens"] if not a["content"].startswith("<0x")]
    return runner(Tokenizer.from_str(source), False,
                  decoder=Tokenizer.from_str(json.dumps(j)))


def all_sets():
    """name -> (count, special tokens are matched, BOS is asked for, function)"""
    def small(name):
        return Tokenizer.from_file(str(HERE / f"{name}.json"))

    sets = {
        "demo": (10000, False, False, demo_runner),
        "llama": (10000, False, False, lambda: spm_runner(ASSETS / "llama-spm/tokenizer.model")),
        "mistral": (10000, False, False, lambda: spm_runner(ASSETS / "mistral/tokenizer.model.v1")),
        "gpt2": (10000, True, False, lambda: runner(gpt2(), True)),
        "qwen2": (10000, True, False, lambda: runner(qwen2(), True)),
    }
    for name in ["small_llama3", "small_gpt2", "small_metaspace", "small_words", "small_prepend"]:
        sets[name] = (2000, True, name == "small_llama3", lambda n=name: runner(
            small(n), True, bos=n == "small_llama3"))
    for name in ["small_trim", "small_unk"]:
        sets[name] = (2000, False, False, lambda n=name: spm_runner(HERE / f"{n}.model"))
    sets["small_llama3/plain"] = (2000, False, False, lambda: runner(small("small_llama3"), False))
    return sets


def digest(ids, text):
    h = fnv(struct.pack(f"<{len(ids)}i", *ids))
    h = fnv(text.encode("utf-8"), h)
    return (h ^ h >> 32) & 0xFFFFFFFF


def write_small(kinds):
    texts = [string(1_000_000 + i, kinds) for i in range(3000)]
    made = {"small_llama3": small_llama3(texts), "small_gpt2": small_gpt2(texts),
            "small_metaspace": small_metaspace(texts, False),
            "small_words": small_metaspace(texts, True), "small_prepend": small_prepend(texts)}
    for name, j in made.items():
        text = json.dumps(j, ensure_ascii=True, separators=(",", ":"))
        (HERE / f"{name}.json").write_text(text + "\n")
    (HERE / "small_trim.model").write_bytes(small_spm(
        texts, byte_fallback=True, remove_extra_whitespaces=True))
    (HERE / "small_unk.model").write_bytes(small_spm(
        texts, add_dummy_prefix=False, remove_extra_whitespaces=False))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--show", nargs=2, metavar=("SET", "I"), help="print one string with its ids")
    a = p.parse_args()
    kinds = json.loads((HERE / "kinds.json").read_text(encoding="utf-8"))
    if a.show:
        text = string(int(a.show[1]), kinds)
        print(repr(text), *all_sets()[a.show[0]][3]()(text), sep="\n")
        return
    write_small(kinds)
    sets, strings = all_sets(), [string(i, kinds) for i in range(10000)]
    index = {"packages": [f"tokenizers {tokenizers.__version__}",
                          f"sentencepiece {sentencepiece.__version__}"],
             "strings": f"{fnv(b''.join(s.encode('utf-8') for s in strings)):016x}",
             "sets": []}
    with open(HERE / "golden.bin", "wb") as f:
        for name, (count, special, bos, make) in sets.items():
            run = make()
            f.write(struct.pack(f"<{count}I", *(digest(*run(s)) for s in strings[:count])))
            index["sets"].append({"name": name, "count": count, "special": special, "bos": bos})
            print(name, count)
    (HERE / "golden.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
