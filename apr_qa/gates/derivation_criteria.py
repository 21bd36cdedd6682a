"""The 29 criteria by which imported, fine-tuned, merged, pruned and quantised models are accepted.

Each is judged by its own measurement or by the report of the one tool that can show it; none by something that
stands for it. The numbers are those of the criterion, whatever a playbook says.
"""

from __future__ import annotations

from apr_qa.gates import Check, Gate, enter
from apr_qa.gates import _derivation_checks as rules
from apr_qa.gates import _derivation_scores as scores
from apr_qa.gates._derivation_examples import EXAMPLES
from apr_qa.vocabulary import Severity

_SEVEN = {"architecture": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28}
"""Dimensions of Qwen2.5-Coder-7B."""
_IMPORTED = {"format": "apr", **_SEVEN}
_CODE = {"humaneval": 85.0, "humaneval-plus": 82.0, "mbpp": 80.0}

CRITERIA: tuple[tuple[str, str, Check, str, str], ...] = (
    ("AC-001", "tool_stages", scores.tool_reports(least=10), "An imported model passes apr check",
     "10 of its 10 stages passed"),
    ("AC-002", "perplexity", rules.of_model(scores.perplexity_within(0.10, either_way=True), format="apr"),
     "The perplexity of an imported model is close to that of the reference", "not zero, within 10 %"),
    ("AC-003", "better_than_untrained", scores.student_better,
     "Progressive distillation makes the student better than the untrained one", "lower perplexity"),
    ("AC-004", "loss", scores.loss_falls, "LoRA training ends with a lower loss than it began with", "falling"),
    ("AC-005", "memory", scores.memory_halved, "QLoRA takes far less memory than LoRA of the same rank", "under 50 %"),
    ("AC-006", "norms", rules.norms_kept, "A SLERP merge keeps the norms of the weights", "within 5 % of the inputs"),
    ("AC-007", "sign_conflicts", rules.conflicts_resolved, "A TIES merge has fewer sign conflicts than the sum",
     "fewer"),
    ("AC-008", "perplexity", scores.perplexity_within(scores.MAX_PERPLEXITY_LOSS),
     "Wanda pruning at a conservative ratio keeps the perplexity", "under 5 % more"),
    ("AC-009", "size", rules.half_of_sixteen_bit, "An int4 model is under half of its FP16 original",
     "under 50 % of the measured file"),
    ("AC-010", "tool", scores.tool_reports(wants_true=True), "A compiled binary infers without anything else",
     "standalone_inference of its report is true"),
    ("AC-011", "tool", scores.tool_reports(wants_true=True), "Recipe C runs from end to end by itself",
     "completed of its report is true"),
    ("AC-012", "tool_least", scores.tool_reports(least=95), "Contracts of the pipeline are bound", "at least 95 %"),
    ("AC-013", "tool_most", scores.tool_reports(most=0), "pmat comply in strict mode finds no failure", "0 failures"),
    ("AC-014", "perplexity",
     rules.of_model(scores.perplexity_within(0.05, either_way=True), format="apr", architecture="qwen2"),
     "An imported Qwen model is on par with the reference in perplexity", "under 5 % apart"),
    ("AC-015", "tool_most", scores.tool_reports(most=0),
     "All falsification tests of kernel class E pass, the known failure included", "0 failed"),
    ("AC-016", "contamination", scores.clean, "The training data hold no benchmark", "under 1 % of the documents"),
    ("AC-017", "distinct", scores.samples_differ, "N samples of a problem are distinct", "2 or more of every prompt"),
    ("AC-018", "speculative", scores.speculation_pays, "Speculative decoding is faster, with the same text",
     "1.5 times"),
    ("AC-019", "reasoning", scores.plan_comes_first, "A structured prompt makes reasoning come before code",
     "over half of the answers"),
    ("AC-020", "loss", scores.over_epochs(scores.preference_loss_falls, 3), "DPO lowers the loss over 3 epochs",
     "falling, not negative, 3 epochs"),
    ("AC-021", "compound", rules.of_model(scores.compound_reached("humaneval", least=(85.0,)), **_SEVEN),
     "Qwen2.5-Coder-7B-Instruct, imported, solves HumanEval", "85 % of all 164 under one strategy"),
    ("AC-022", "compound", rules.of_model(scores.compound_reached(*_CODE, least=tuple(_CODE.values())), **_SEVEN),
     "The whole pipeline on 7B makes one model with three scores",
     "HumanEval 85 %, HumanEval+ 82 %, MBPP 80 %, one model and strategy"),
    ("AC-023", "points", scores.few_points_lost_on("humaneval", 164), "Int4 costs few problems of HumanEval",
     "under 2 points pass@1 on all 164"),
    ("AC-024", "score", scores.best_parent_reached, "A TIES merge is as good as its best specialist",
     "on one benchmark at least"),
    ("AC-025", "tool_least", scores.tool_reports(least=80), "Training data are of good quality (alimentar)",
     "at least 80 of 100"),
    ("AC-026", "tool", scores.tool_reports(wants_true=True),
     "The compiled int4 1.5B is under 1 GB and writes valid Python", "within_1gb_and_valid_python is true"),
    ("AC-027", "tool_most", scores.tool_reports(most=0), "Every gap in the tooling is wired or documented", "0 open"),
    ("AC-028", "tool", scores.tool_reports(wants_true=True), "QLoRA trains through wgpu without CUDA",
     "completed of its report is true"),
    ("AC-029", "loss", scores.on_backend(scores.over_epochs(scores.loss_falls, 2), "wgpu"),
     "Training through wgpu lowers the loss over 2 epochs",
     "falling, 2 epochs, backend wgpu in the log"),
)  # fmt: skip
"""Id, example, rule, hypothesis, threshold."""

for _id, _example, _rule, _hypothesis, _threshold in CRITERIA:
    _good, _bad = EXAMPLES[_example]
    _good, _bad = ({**one, "models": [_IMPORTED]} for one in (_good, _bad))
    enter(
        Gate(
            id=_id,
            category="acceptance",
            severity=Severity.P1,
            hypothesis=_hypothesis,
            measure="as the kind of its derivation says; what is neither given nor made on the spot is inapplicable",
            threshold=_threshold,
            source="acceptance criteria of the leaderboard pipeline",
            check=rules.measured(_rule),
            corroborates=_good,
            falsifies=_bad,
        )
    )
