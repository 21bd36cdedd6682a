"""Claims that a derived model kept what its derivation promises to keep, and gained what it promises to gain."""

from __future__ import annotations

from apr_qa.gates import Check, Gate, enter
from apr_qa.gates import _derivation_checks as rules
from apr_qa.gates import _derivation_scores as scores
from apr_qa.gates._derivation_examples import EXAMPLES
from apr_qa.vocabulary import Severity

P0, P1 = Severity.P0, Severity.P1

PROMISES: tuple[tuple[str, str, Severity, Check, str, str, str], ...] = (
    ("F-DERIV-TENSORS-001", "tensor_set", P0, rules.tensors_kept, "The tensors are those of every parent",
     "names and shapes under canonical names", "none missing, none unexpected, no other shape"),
    ("F-DERIV-ARCH-001", "architecture", P0, rules.architecture_kept, "Architecture and dimensions are kept",
     "model type and the dimensions that both configurations state", "equal"),
    ("F-DERIV-TOK-001", "tokenizer", P0, rules.tokenizer_kept, "The tokenizer is that of the first parent",
     "vocabulary, merges, added tokens, stages, 200 encoded texts", "no difference"),
    ("F-DERIV-MERGE-001", "score", P1, scores.best_parent_reached,
     "The merge is at least as good as its best parent on one benchmark",
     "perplexity of a text, or coding problems solved, of the merge and of every parent", "best parent or better"),
    ("F-DERIV-SLERP-001", "norms", P0, rules.norms_kept, "SLERP keeps the norm of every tensor",
     "L2 norm of each tensor outside of the range between its parents", "at most 5 %"),
    ("F-DERIV-TIES-001", "sign_conflicts", P0, rules.conflicts_resolved,
     "The merge contradicts the signs of its parents' task vectors less often than their sum does",
     "entries that point against a parent's task vector, in the merge and in the naive sum", "fewer"),
    ("F-DERIV-TIES-002", "density", P1, rules.density_kept, "The merge moves what trimming to its density leaves",
     "share of entries that differ from the base, and the union of the trimmed task vectors", "within 1 %"),
    ("F-DERIV-PRUNE-001", "sparsity", P0, rules.sparsity_reached, "Pruning reaches the sparsity that it states",
     "share of zeros in the matrices of the layers", "stated ± 1 %"),
    ("F-DERIV-PRUNE-002", "perplexity", P0, scores.perplexity_within(scores.MAX_PERPLEXITY_LOSS),
     "Pruning costs little perplexity", "perplexity of the same text before and after", "under 5 % more"),
    ("F-DERIV-QUANT-001", "size", P0, rules.half_of_sixteen_bit, "A 4-bit model is under half of its 16-bit model",
     "bytes of the weight files, and of a 16-bit file of the parent that is there or is written", "under 50 %"),
    ("F-DERIV-QUANT-002", "points", P1, scores.few_points_lost, "Quantisation costs few solved problems",
     "pass@1 of artifact and parent on the same problems, asked the same way", "under 2 points"),
    ("F-DERIV-LORA-001", "zero_adapter", P0, rules.zero_adds_nothing, "A zero adapter leaves the base",
     "tensors with B·A = 0 against the base; B·A of the initial adapter", "equal bit for bit; zero"),
    ("F-DERIV-LORA-002", "merged_adapter", P0, rules.merged_is_unmerged, "The merged weights are W + scale·B·A",
     "each weight against the sum, and the projection of the merge's step on the adapter's",
     "within rounding of the stored type; gain 1 ± 0.05"),
    ("F-DERIV-LORA-003", "loss", P1, scores.loss_falls, "The loss falls in training",
     "mean of the first and of the last quarter of the log, slope", "last below first, slope below zero"),
    ("F-DERIV-LORA-004", "base_unchanged", P0, rules.base_is_unchanged, "Training left the base as it was",
     "hash of the base, or its tensors against a copy made before", "equal"),
    ("F-DERIV-QLORA-001", "memory", P1, scores.memory_halved, "QLoRA takes under half of the memory of LoRA",
     "peak memory in the logs of two trainings of equal rank", "under 50 %"),
    ("F-DERIV-DPO-001", "loss", P1, scores.preference_loss_falls, "The preference loss falls, and is never negative",
     "mean of the first and of the last quarter of the log, slope", "last below first, slope below zero, none below 0"),
    ("F-DERIV-DISTILL-001", "better_than_untrained", P0, scores.student_better,
     "The student predicts better than it did untrained", "perplexity of the same text", "lower"),
    ("F-DERIV-SPEC-001", "same_text", P0, scores.same_greedy_text, "Speculation changes no greedy text",
     "continuations with and without the draft", "all equal, token by token"),
    ("F-DERIV-SPEC-002", "speculative", P1, scores.speculation_pays, "Speculation is worth its draft",
     "tokens per second with and without the draft, best of three alternating rounds", "1.5 times, same text"),
    ("F-DERIV-COMPOUND-001", "compound", P1, scores.compound_reached(),
     "One model under one strategy reaches every score", "pass@1 from the problems of stored results of this very file",
     "each of the recipe's least scores; never the best of several models or strategies"),
    ("F-DERIV-IMPORT-001", "perplexity", P1, scores.perplexity_within(0.10, either_way=True),
     "An imported model predicts like its source", "perplexity of the same text", "within 10 %"),
    ("F-DERIV-TRAIN-001", "loss", P1, scores.loss_falls, "The loss falls in training",
     "mean of the first and of the last quarter of the log, slope", "last below first, slope below zero"),
    ("F-DERIV-DATA-001", "contamination", P0, scores.clean, "The training data hold no benchmark",
     "documents that share half of their word 10-grams with benchmark texts, or hold one whole", "under 1 %"),
    ("F-DERIV-SAMPLE-001", "distinct", P1, scores.samples_differ, "Samples of one prompt differ",
     "distinct continuations of each prompt", "2 or more of every prompt, none empty"),
    ("F-DERIV-REASON-001", "reasoning", P1, scores.plan_comes_first, "Structured prompts make plans before code",
     "answers with 8 words or more before their code", "over half of the answers"),
    ("F-DERIV-TOOL-001", "tool", P1, scores.tool_says_so, "Another tool's report says that it passed",
     "one field of the report, as JSON", "true, or within the recipe's bounds"),
)  # fmt: skip
"""Id, check whose facts are judged, severity, rule, hypothesis, measure, threshold."""

for _id, _check, _severity, _rule, _hypothesis, _measure, _threshold in PROMISES:
    _good, _bad = EXAMPLES[_check]
    enter(
        Gate(
            id=_id,
            category="derivation",
            severity=_severity,
            hypothesis=_hypothesis,
            measure=_measure,
            threshold=_threshold,
            source="acceptance criteria of derived models: merge, prune, quantise, fine-tune",
            check=rules.measured(_rule),
            corroborates=_good,
            falsifies=_bad,
        )
    )
