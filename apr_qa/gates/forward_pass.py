"""What happens inside a loaded model: one traced forward pass, its stages, its cache, its positions."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Gate, enter
from apr_qa.gates._forward_checks import (
    CACHE_KL,
    ENTROPY,
    EXPLODED,
    FLOAT16_MOST,
    KEYS,
    LEVELS,
    NORM_ERROR,
    POSITION_CHANGE,
    WEIGHT_SUM,
    all_finite,
    attention_is_alive,
    attention_sums_to_one,
    cache_is_exact,
    canary_is_kept,
    canary_is_silent,
    canary_notices,
    embedding_finite,
    fits_float16,
    focus_finds,
    focus_limits,
    levels_answer,
    logits_are_a_distribution,
    logits_are_informed,
    mlps_are_alive_and_bounded,
    norms_normalise,
    not_exploded,
    pass_completes,
    payload_shows_values,
    planted,
    positions_matter,
    statistics_are_whole,
    tokens_come_back,
    tracing_changes_nothing,
)
from apr_qa.vocabulary import Severity

_TRACE: dict[str, Any] = {
    **{"level": "layer", "tokens": 29, "layers": 30, "not_finite": [], "largest": 22609.5},
    **{"largest_at": "layers.11.layer", "attention_sum_error": 2e-7, "attention_entropy": 0.46},
    **{"norm_error": 7e-4, "logits": 29, "tracing_changes": 0.0, "logit_spread": 3.2},
    **{"probability_sum": 1.0, "probability_least": 7e-15, "probability_most": 0.26},
}
_POSITIONS: dict[str, Any] = {"tokens": 29, "change": 0.13}
_CACHE: dict[str, Any] = {"tokens": 15, "kl_mean": 0.0, "kl_max": 0.0}
_TEXTS: dict[str, Any] = {"texts": 6, "changed": []}
_LEVELS: dict[str, Any] = {
    "answered": list(LEVELS),
    "keys": sorted(KEYS),
    "stages": 9,
    "stages_with_values": 9,
}
_HERE = {"not_finite": ["layers.0.layer"], "largest_at": "logits"}
_PLANTED: dict[str, Any] = {
    "planted_at": "layers.0.layer",
    "reported": {"nan": _HERE, "inf": _HERE, "explosion": {"not_finite": [], "largest_at": "layers.0.layer"}},
}
_BLIND = {name: {"not_finite": [], "largest_at": "logits"} for name in ("nan", "inf", "explosion")}
_TRACING = "one forward pass over a fixed text, every stage looked at"
_P0, _P1, _P2 = Severity.P0, Severity.P1, Severity.P2

_ROWS: tuple[tuple[str, Severity, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    (
        "F-TRACE-PAYLOAD-001",
        _P0,
        "No layer computes NaN or infinity",
        "0 stages",
        all_finite,
        _TRACE,
        {"not_finite": ["layers.3.mlp"]},
    ),
    (
        "F-GPU-005",
        _P1,
        "Nothing explodes on the way through the layers",
        f"largest value ≤ {EXPLODED:g}",
        not_exploded,
        _TRACE,
        {"largest": 3e8},
    ),
    (
        "F-TRACE-PAYLOAD-003",
        _P2,
        "Every value fits into float16, in which many engines compute",
        f"largest value ≤ {FLOAT16_MOST:g}",
        fits_float16,
        _TRACE,
        {"largest": 7e4},
    ),
    (
        "F-CHECK-002",
        _P0,
        "The embedding of a prompt is finite",
        "no NaN, no infinity",
        embedding_finite,
        _TRACE,
        {"not_finite": ["embedding"]},
    ),
    (
        "F-CHECK-003",
        _P1,
        "Attention weights sum to one",
        f"within {WEIGHT_SUM:g}",
        attention_sums_to_one,
        _TRACE,
        {"attention_sum_error": 0.4},
    ),
    (
        "F-NUM-001",
        _P2,
        "Attention is neither uniform nor stuck",
        f"mean entropy between {ENTROPY[0]} and {ENTROPY[1]} of what is possible",
        attention_is_alive,
        _TRACE,
        {"attention_entropy": 0.999},
    ),
    (
        "F-CHECK-005",
        _P2,
        "Norms give rows of unit size",
        f"root mean square 1 within {NORM_ERROR}",
        norms_normalise,
        _TRACE,
        {"norm_error": 0.9},
    ),
    (
        "F-CHECK-009",
        _P0,
        "A forward pass completes",
        "a row of logits for each token",
        pass_completes,
        _TRACE,
        {"logits": 0},
    ),
    (
        "F-CHECK-008",
        _P0,
        "The logits give a probability distribution",
        "all in [0, 1], sum one within 1e-6",
        logits_are_a_distribution,
        _TRACE,
        {"probability_sum": 0.4},
    ),
    (
        "F-CHECK-010",
        _P1,
        "The logits say something",
        "spread > 1e-3",
        logits_are_informed,
        _TRACE,
        {"logit_spread": 0.0},
    ),
    (
        "F-TRACELEVEL-005",
        _P2,
        "Tracing does not change what is computed",
        "logits differ by no more than they spread",
        tracing_changes_nothing,
        _TRACE,
        {"tracing_changes": 40.0},
    ),
    (
        "F-CHECK-006",
        _P0,
        "Positions reach the attention",
        f"its first layer changes by more than {POSITION_CHANGE:g} when the order of tokens does",
        positions_matter,
        _POSITIONS,
        {"change": 0.0},
    ),
    (
        "F-CHECK-007",
        _P0,
        "The key-value cache gives what one pass gives",
        f"≤ {CACHE_KL[0]} nats mean, ≤ {CACHE_KL[1]} at most",
        cache_is_exact,
        _CACHE,
        {"kl_mean": 0.7, "kl_max": 4.0},
    ),
    (
        "F-CHECK-001",
        _P1,
        "Texts come back from the tokenizer",
        "decode(encode(x)) = x, a leading blank aside",
        tokens_come_back,
        _TEXTS,
        {"changed": [{"text": "a", "back": "b"}]},
    ),
    (
        "F-TRACE-001",
        _P2,
        "Every trace level answers",
        ", ".join(LEVELS),
        levels_answer,
        _LEVELS,
        {"answered": ["none"]},
    ),
    (
        "F-TRACE-002",
        _P2,
        "The statistics of a stage are whole",
        ", ".join(sorted(KEYS)),
        statistics_are_whole,
        _LEVELS,
        {"keys": ["mean"]},
    ),
    (
        "F-TRACE-005",
        _P2,
        "The payload level shows values of every stage",
        "as many stages with values as stages",
        payload_shows_values,
        _LEVELS,
        {"stages_with_values": 0},
    ),
    (
        "F-TRACE-003",
        _P2,
        "Tracing notices NaN",
        "reported where it was planted",
        planted("nan"),
        _PLANTED,
        {"reported": _BLIND},
    ),
    (
        "F-TRACE-004",
        _P2,
        "Tracing notices infinity",
        "reported where it was planted",
        planted("inf"),
        _PLANTED,
        {"reported": _BLIND},
    ),
    (
        "F-TRACE-006",
        _P2,
        "Tracing notices an explosion",
        "the largest value is reported where it was planted",
        planted("explosion"),
        _PLANTED,
        {"reported": _BLIND},
    ),
)

_CANARY: dict[str, Any] = {
    "prompts": 4,
    "kept": 16,
    "changed_by_itself": [],
    "largest_by_itself": 0.0,
    "noticed": 4,
}
_ROWS += (
    (
        "F-CANARY-001",
        _P2,
        "A canary of the model can be kept",
        "prompts and tokens in it",
        canary_is_kept,
        _CANARY,
        {"prompts": 0},
    ),
    (
        "F-CANARY-002",
        _P2,
        "A canary notices drift",
        "drift planted into every prompt is noticed in every prompt",
        canary_notices,
        _CANARY,
        {"noticed": 0},
    ),
    (
        "F-CANARY-003",
        _P2,
        "A canary is silent about an unchanged model",
        "no prompt changes",
        canary_is_silent,
        _CANARY,
        {"changed_by_itself": ["2 + 2 ="]},
    ),
)

_MLP: dict[str, Any] = {"name": "layers.0.mlp", "stage": "mlp", "min": -3.0, "max": 4.0}
_FOCUS: dict[str, Any] = {"asked": {"mlp": ["mlp"]}, "shown": {"mlp": ["mlp"]}}
_ROWS += (
    (
        "F-CHECK-004",
        _P1,
        "Feed-forward parts give bounded values, and not only zeros",
        f"0 < largest magnitude ≤ {EXPLODED:g} in every layer",
        mlps_are_alive_and_bounded,
        {"stages": [_MLP]},
        {"stages": [_MLP, {**_MLP, "min": 0.0, "max": 0.0}]},
    ),
    (
        "F-PROFILE-003",
        _P2,
        "A profile of one part shows that part only",
        "no stage of another part",
        focus_limits,
        _FOCUS,
        {"shown": {"mlp": ["mlp", "attention"]}},
    ),
    (
        "F-PROFILE-004",
        _P2,
        "A profile can be asked for every part",
        "embedding, attention, mlp, head: at least one stage each",
        focus_finds,
        _FOCUS,
        {"shown": {"mlp": []}},
    ),
)

for _id, _severity, _hypothesis, _threshold, _check, _healthy, _change in _ROWS:
    enter(
        Gate(
            id=_id,
            category="forward pass",
            severity=_severity,
            hypothesis=_hypothesis,
            measure=_TRACING,
            threshold=_threshold,
            source="thresholds: apr_qa/gates/_forward_checks.py says where each comes from",
            check=_check,
            corroborates=_healthy,
            falsifies={**_healthy, **_change},
        )
    )
