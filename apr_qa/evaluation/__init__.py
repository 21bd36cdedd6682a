"""Evaluation that cannot lie: tasks, prompts, programs run in a sandbox, pass@k, perplexity, contamination."""
