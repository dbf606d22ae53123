"""The only door to transformers, because what is imported first decides how long a command takes to start.

transformers imports scikit-learn and scipy, where they are installed, for assisted generation and object detection.
That is a third of its start-up time (2.5 s of 7 on two cores), and scoring needs neither, so it is told that they are
not there. This must come before anything else of transformers is imported.
"""

from __future__ import annotations

import transformers.utils

transformers.utils.is_sklearn_available = lambda: False
transformers.utils.is_scipy_available = lambda: False
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

from transformers import (  # noqa: E402
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedTokenizerFast,
)
from transformers.activations import FastGELUActivation, NewGELUActivation  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D  # noqa: E402

__all__ = [
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AttentionInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoTokenizer",
    "Conv1D",
    "DynamicCache",
    "DynamicLayer",
    "EncoderDecoderCache",
    "FastGELUActivation",
    "NewGELUActivation",
    "PreTrainedTokenizerFast",
]
