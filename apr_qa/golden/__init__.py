"""Golden corpora: logits of a ground-truth model on fixed prompts, kept to compare other files and engines with."""
