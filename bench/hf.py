"""The only door to transformers, because what is imported first decides how long a command takes to start.

transformers imports scikit-learn and scipy, where they are installed, for assisted generation and object detection.
That is a third of its start-up time (2.5 s of 7 on two cores), and scoring needs neither, so it is told that they are
not there. This must come before anything else of transformers is imported. Likewise torchao, where it is installed,
is kept out until a model is quantised with it: importing it takes two seconds and prints what it could not load.
"""

from __future__ import annotations

import transformers.utils

transformers.utils.is_sklearn_available = lambda: False
transformers.utils.is_scipy_available = lambda: False
_is_starting = True
_is_torchao_available = transformers.utils.is_torchao_available
transformers.utils.is_torchao_available = lambda: not _is_starting and _is_torchao_available()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

from transformers import (  # noqa: E402
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    AwqConfig,
    BitsAndBytesConfig,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GPTQConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TorchAoConfig,
)
from transformers.activations import FastGELUActivation, NewGELUActivation, SiLUActivation  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402
from transformers.generation.configuration_utils import ContinuousBatchingConfig  # noqa: E402
from transformers.modeling_gguf_pytorch_utils import (  # noqa: E402
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D  # noqa: E402

_is_starting = False

__all__ = [
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "TENSOR_PROCESSORS",
    "AttentionInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoTokenizer",
    "AwqConfig",
    "BitsAndBytesConfig",
    "ContinuousBatchingConfig",
    "Conv1D",
    "DynamicCache",
    "DynamicLayer",
    "EncoderDecoderCache",
    "FastGELUActivation",
    "GPTQConfig",
    "GenerationConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "NewGELUActivation",
    "PreTrainedTokenizerFast",
    "SiLUActivation",
    "StoppingCriteria",
    "TemperatureLogitsWarper",
    "TensorProcessor",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TorchAoConfig",
    "get_gguf_hf_weights_map",
]
