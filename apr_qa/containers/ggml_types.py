"""The numbers that GGUF files give to types of tensors and of whole files, as ggml and llama.cpp define them."""

from __future__ import annotations

from collections.abc import Mapping

TYPES: Mapping[int, tuple[str, int, int]] = {
    **{0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22)},
    **{7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 40), 10: ("q2_k", 256, 84)},
    **{11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210)},
    **{15: ("q8_k", 256, 292), 16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98)},
    **{19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82)},
    **{23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8)},
    **{28: ("f64", 1, 8), 29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54)},
    **{35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18)},
}
"""Number -> lower-case name, elements and bytes of a block."""
BLOCKS: Mapping[str, tuple[int, int]] = {name: (values, width) for name, values, width in TYPES.values()}
FILE_TYPES: Mapping[int, str] = {
    **{0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s"},
    **{12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k"},
    **{19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl"},
    **{
        26: "iq3_s",
        27: "iq3_m",
        28: "iq2_s",
        29: "iq2_m",
        30: "iq4_xs",
        31: "iq1_m",
        32: "bf16",
        36: "tq1_0",
    },
    **{37: "tq2_0", 38: "mxfp4_moe", 39: "nvfp4", 40: "q1_0"},
}
"""``general.file_type`` -> name."""
