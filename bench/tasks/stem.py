"""The forms that a task has by its `stem`: the options stand under what is asked, in the wording that all tasks share.

Zero-shot instructions are in English whatever the rows' language, as in Belebele's paper (Bandarkar et al., 2024).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from bench.tasks.form import Form

_OPTIONS = "{{ stem }}\n{% for label, text in shown %}{{ label }}. {{ text }}\n{% endfor %}"
_FORMS = {
    "letter": {
        "question": _OPTIONS + "Answer:",
        "continuations": "labels",
        "metrics": ["acc"],  # labels are of one length
    },
    "written": {
        "question": _OPTIONS + "\nGive only the letter of the right answer.\nAnswer:",
        "generate": {"max_tokens": 64, "stop": ["\n"]},
        "extract": "letter",
        "num_fewshot": 0,
    },
    "cot": {
        "question": _OPTIONS + '\nThink step by step, then give the letter of the right answer after "Answer:".',
        "generate": {"max_tokens": 1024},
        "extract": "letter",
        "delimiter": "\n",
        "num_fewshot": 0,
    },
}


@functools.cache
def stem_forms() -> Mapping[str, Form]:
    """By name: `letter` (the likelihoods of the labels), `written` and `cot` (an answer in writing, without shots)."""
    return MappingProxyType({name: Form.model_validate(keys) for name, keys in _FORMS.items()})
