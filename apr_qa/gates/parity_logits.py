"""Parity of next-token distributions: an artifact predicts what the ground truth predicts.

P0 is what leaves three times the divergence of a healthy conversion to the same type; a near miss (two
thirds of that) and what costs quality without breaking anything is P1.
"""

from __future__ import annotations

from apr_qa.gates import Check, Facts, Gate, enter
from apr_qa.gates import _parity_predictions as judged
from apr_qa.vocabulary import Severity

_SOURCE = (
    "limits: three times twins made on the spot (apr_qa/logits/twins.py), floors and published values in "
    "apr_qa/comparison/divergence_budget.py"
)
_KL = "KL of next-token distributions (mean, p99, max, by position), first choices; same token ids on both sides"
_KL_LIMIT = "three times the healthy twin of the same type, at least the noise of the engines"
_CHOICE = "first choices of both sides at every position"
_TIE = "equal but where the truth's lead is below what a healthy twin takes away three times over"
_GREEDY = "greedy continuations of the same prompts, token by token, up to the first difference"

_SIBLINGS = "KL of next-token distributions of both conversions, and greedy continuations"
_BOTH = "the limits of both towards the ground truth together: roots of divergences add up"
_INNER_LIMIT = "three times the healthy twin of the same type, at least the noise of the engines"
_FAR = judged.bad(kl_mean=0.14)
_ALIKE = {**judged.GOOD, "greedy": judged.SAME}
_NOISE = "noise of the engines for the type"

_GATES: tuple[tuple[str, Severity, str, str, str, Check, Facts, Facts], ...] = (
    (
        "F-CONTRACT-I1-001",
        Severity.P0,
        "Inference survives conversion: the artifact predicts what the ground truth predicts",
        *(_KL, _KL_LIMIT, judged.within_budget, judged.GOOD, _FAR),
    ),
    (
        "F-ROSETTA-INF-001",
        Severity.P0,
        "The first choice is the same token at every position, near ties aside",
        *(_CHOICE, _TIE, judged.first_choices_agree, judged.GOOD, judged.bad(largest_lead_lost=9.0)),
    ),
    (
        "F-ROSETTA-INF-002",
        Severity.P1,
        "The difference of distributions is small, not merely inside the limit",
        *(
            _KL,
            "two thirds of the limit of F-CONTRACT-I1-001 over the whole text, where the twin ran in the same engine",
            judged.well_within_budget,
            judged.GOOD,
            _FAR,
        ),
    ),
    (
        "F-ROSETTA-INF-003",
        Severity.P0,
        "No token floods the predictions",
        _CHOICE,
        "the commonest at half of the positions at most, or twice the truth's share",
        *(judged.no_flood, judged.GOOD, judged.bad(commonest_choice=[0.1, 0.97])),
    ),
    (
        "F-HFP-001",
        Severity.P0,
        "Final logits equal those of transformers",
        *(
            "all logits at all positions",
            "at most 1 % beyond the noise of engine and type",
            judged.logits_agree,
        ),
        *(judged.GOOD, judged.bad(logit_difference_p99=9.0)),
    ),
    (
        "F-HFP-002",
        Severity.P0,
        "Greedy tokens equal those of transformers",
        *(_GREEDY, _TIE, judged.continuations_agree, judged.SAME, judged.BROKEN),
    ),
    (
        "F-HFP-006",
        Severity.P0,
        "Token-by-token decoding with its cache predicts what one pass over the whole text predicts",
        *(_KL, "noise of one engine in float32", judged.within_budget, judged.GOOD, _FAR),
    ),
    (
        "F-PAR-001",
        Severity.P1,
        "CPU and GPU predict the same",
        *(_KL, _NOISE, judged.the_same_on_both, judged.GOOD, _FAR),
    ),
    (
        "F-PAR-002",
        Severity.P1,
        "GGUF and SafeTensors generate the same tokens",
        *(_GREEDY, _TIE, judged.continuations_agree, judged.SAME, judged.BROKEN),
    ),
    (
        "F-PAR-003",
        Severity.P1,
        "Quantisation costs no more perplexity than it must",
        "perplexity ratio on the reference text",
        "1.10, or three times what the twin costs",
        *(judged.perplexity_is_kept, judged.GOOD, judged.bad(perplexity_ratio=1.4)),
    ),
    (
        "F-GOLDEN-RULE-001",
        Severity.P0,
        "The converted model says what the original says",
        *(_GREEDY, _TIE, judged.continuations_agree, judged.SAME, judged.BROKEN),
    ),
    (
        "F-GOLDEN-RULE-002",
        Severity.P0,
        "The conversion completes",
        "tensors read back from the result, tied heads counted once",
        "as many as went in",
        judged.conversion_completes,
        {"tensors": 272, "source_tensors": 272},
        {"tensors": 0, "source_tensors": 272},
    ),
    (
        "F-GOLDEN-RULE-003",
        Severity.P0,
        "The converted model loads",
        "load in a process of its own",
        "the engine says ready",
        judged.converted_file_loads,
        {"load_s": 1.5},
        {"load_s": None},
    ),
    (
        "F-LAYOUT-CONTRACT-005",
        Severity.P0,
        "Inference gives no garbage after conversion",
        "perplexity ratio on the reference text",
        "10",
        *(judged.output_is_no_garbage, judged.GOOD, judged.bad(perplexity_ratio=200.0)),
    ),
    (
        "F-CONV-015",
        Severity.P0,
        "The first choice after the same prompt is the same token",
        *(_CHOICE, _TIE, judged.first_choices_agree, judged.GOOD, judged.bad(largest_lead_lost=9.0)),
    ),
    (
        "F-PARITY-001",
        Severity.P0,
        "The first choice of the GGUF file is that of the SafeTensors model",
        *(_CHOICE, _TIE, judged.first_choices_agree, judged.GOOD, judged.bad(largest_lead_lost=9.0)),
    ),
    *(
        (
            gate,
            severity,
            hypothesis,
            _KL,
            _KL_LIMIT,
            judged.within_budget,
            judged.GOOD,
            _FAR,
        )
        for gate, severity, hypothesis in (
            ("F-CONV-INF-002", Severity.P0, "GGUF and SafeTensors infer alike"),
            ("F-CONV-INF-003", Severity.P0, "APR and SafeTensors infer alike"),
            ("F-CONV-INF-EQ", Severity.P1, "Inference after the conversion equals that before"),
        )
    ),
    *(
        (gate, Severity.P0, hypothesis, _SIBLINGS, _BOTH, judged.siblings_agree, *examples)
        for gate, hypothesis, examples in (
            (
                "F-CONV-INF-001",
                "GGUF and APR infer alike",
                (_ALIKE, {**_FAR, "greedy": judged.SAME}),
            ),
            (
                "F-CONV-G-A-INF-001",
                "GGUF and the APR of the same model infer alike",
                (_ALIKE, {**_ALIKE, "greedy": judged.BROKEN}),
            ),
        )
    ),
    *(
        (
            gate,
            Severity.P0,
            hypothesis,
            _KL,
            _NOISE,
            judged.the_same_on_both,
            judged.GOOD,
            _FAR,
        )
        for gate, hypothesis in (
            ("F-CONV-BE-001", "CPU and GPU agree"),
            ("F-CONV-BE-002", "CPU and WebAssembly agree"),
            ("F-CONV-BE-003", "GPU and WebAssembly agree"),
        )
    ),
    (
        "F-HFP-003",
        Severity.P0,
        "Attention weights equal those of the Hugging Face model",
        "total variation of the attention of every query, mean of each layer",
        *(_INNER_LIMIT, judged.attention_agrees, judged.INNER, {**judged.INNER, "attention": [1e-5, 0.2]}),
    ),
    (
        "F-HFP-004",
        Severity.P0,
        "Hidden states equal those of the Hugging Face model",
        "relative error of the hidden states behind every layer; of GGUF that behind the final norm",
        *(
            _INNER_LIMIT,
            judged.hidden_states_agree,
            judged.INNER,
            {**judged.INNER, "hidden": [0.0, 1e-4, 0.4]},
        ),
    ),
    (
        "F-PARITY-VOCAB-001",
        Severity.P0,
        "Every id of the vocabulary passes through the model",
        "all ids once through the artifact: finite logits; 64 columns compared with the truth as far as time allows",
        "all finite; no id whose logits correlate with the truth's by less than a half",
        *(judged.every_id_passes, judged.EVERY, {**judged.EVERY, "bad_ids": [17], "bad_count": 16}),
    ),
)
for _id, _severity, _hypothesis, _measure, _threshold, _check, _corroborates, _falsifies in _GATES:
    enter(
        Gate(
            id=_id,
            category="parity",
            severity=_severity,
            hypothesis=_hypothesis,
            measure=_measure,
            threshold=_threshold,
            source=_SOURCE,
            check=_check,
            corroborates=_corroborates,
            falsifies=_falsifies,
        )
    )
