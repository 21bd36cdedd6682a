"""An artifact against the ground truth: configuration, tensors, tokenizer, template, predictions."""
