"""What the formats are made of: bounded reading, headers, blocks, metadata; no plugin, no policy."""
