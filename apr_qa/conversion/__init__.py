"""From one format to another: what differs between them for each architecture and tokenizer."""
